-- name: tables
SELECT c.oid, c.relname AS name, pg_get_partkeydef(c.oid) AS partitioned_by, c.reloptions AS options,
       c.relpersistence = 'u' AS unlogged
FROM pg_class c
WHERE c.relnamespace = current_schema()::regnamespace AND c.relkind IN ('r', 'p') AND NOT c.relispartition
ORDER BY c.relname

-- name: columns
SELECT a.attnum, a.attname AS name, format_type(a.atttypid, a.atttypmod) AS type, a.attnotnull AS required,
       a.attidentity AS identity, a.attgenerated AS generated, pg_get_expr(d.adbin, d.adrelid) AS default
FROM pg_attribute a LEFT JOIN pg_attrdef d ON d.adrelid = a.attrelid AND d.adnum = a.attnum
WHERE a.attrelid = $1 AND a.attnum > 0 AND NOT a.attisdropped
ORDER BY a.attnum

-- name: constraints
SELECT conname AS name, contype AS kind, conkey AS columns, pg_get_constraintdef(oid) AS definition
FROM pg_constraint
WHERE conrelid = $1 AND contype <> 'n'
ORDER BY contype, conname

-- name: indexes
SELECT pg_get_indexdef(i.indexrelid) AS definition
FROM pg_index i JOIN pg_class c ON c.oid = i.indexrelid
WHERE i.indrelid = $1 AND NOT EXISTS (SELECT FROM pg_constraint k WHERE k.conindid = i.indexrelid AND k.conrelid = $1)
ORDER BY c.relname

-- name: triggers
SELECT pg_get_triggerdef(oid) AS definition FROM pg_trigger WHERE tgrelid = $1 AND NOT tgisinternal ORDER BY tgname

-- name: grants
SELECT privilege, string_agg(name, ', ' ORDER BY attnum) AS columns
FROM (
    SELECT g.privilege_type AS privilege, 0 AS attnum, NULL AS name
    FROM pg_class c, aclexplode(c.relacl) g WHERE c.oid = $1 AND g.grantee = $2::text::regrole
    UNION ALL
    SELECT g.privilege_type, a.attnum, a.attname
    FROM pg_attribute a, aclexplode(a.attacl) g WHERE a.attrelid = $1 AND g.grantee = $2::text::regrole
) granted
GROUP BY privilege, (attnum = 0)
ORDER BY privilege

-- name: functions
SELECT pg_get_functiondef(p.oid) AS definition, p.prosecdef AS as_owner,
       has_function_privilege($1::text, p.oid, 'EXECUTE') AS callable, p.oid::regprocedure::text AS name
FROM pg_proc p
WHERE p.pronamespace = current_schema()::regnamespace
ORDER BY p.proname, p.oid

-- name: sequences
SELECT c.relname AS name, has_sequence_privilege($1::text, c.oid, 'USAGE') AS usable
FROM pg_class c
WHERE c.relnamespace = current_schema()::regnamespace AND c.relkind = 'S'
  AND NOT EXISTS (SELECT FROM pg_depend d WHERE d.objid = c.oid AND d.deptype IN ('i', 'a'))
ORDER BY c.relname

-- name: unlimited_columns
SELECT c.relname || '.' || a.attname AS name
FROM pg_class c JOIN pg_attribute a ON a.attrelid = c.oid AND a.attnum > 0 AND NOT a.attisdropped
WHERE c.relnamespace = current_schema()::regnamespace AND c.relkind IN ('r', 'p') AND NOT c.relispartition
  AND a.atttypid IN ('text'::regtype, 'bytea'::regtype, 'varchar'::regtype, 'jsonb'::regtype, 'text[]'::regtype)
  AND NOT EXISTS (SELECT FROM pg_constraint k WHERE k.conrelid = c.oid AND k.contype IN ('c', 'f') AND a.attnum = ANY (k.conkey))
ORDER BY 1
