"""What a scenario begins with: payments that wait, and payments that succeeded before; and the looks into a database."""

import asyncpg

AMOUNT_MINOR = 1999
HISTORY = 10_000
"""Payments that succeeded before: a shop that never sold anything has statistics that no other shop has."""

SEED_OURS = """
SET search_path = payments;
CREATE TEMPORARY TABLE seed AS
  SELECT uuidv7() AS order_id, uuidv7() AS payment_id, '{prefix}' || lpad(n::text, 9, '0') AS attempt_no
  FROM generate_series(1, {count} + {history}) AS n;
INSERT INTO payable (order_id, merchant_id, amount_minor, currency, status, order_expires_at, order_seq, correlation_id,
                     version, event_seq, created_at, updated_at)
  SELECT order_id, '018f0000-0000-7000-8000-000000000001', {amount}, 'CNY', 'OPEN', now() + interval '2 hours', 0,
         'bench-' || attempt_no, 1, 0, now(), now() FROM seed;
INSERT INTO payment (payment_id, order_id, merchant_id, amount_minor, currency, channel, product, description, status,
                     attempt_no, expires_at, correlation_id, version, event_seq, created_at, updated_at)
  SELECT payment_id, order_id, '018f0000-0000-7000-8000-000000000001', {amount}, 'CNY', 'wechat', 'native', 'Order',
         'PENDING', attempt_no, now() + interval '2 hours', 'bench-' || attempt_no, 2, 2, now(), now() FROM seed;
INSERT INTO attempt (attempt_no, payment_id, order_id, channel, status, next_query_at, created_at, updated_at)
  SELECT attempt_no, payment_id, order_id, 'wechat', 'OPEN', now() + interval '1 hour', now(), now() FROM seed;
UPDATE payable SET claimed_by = payment_id FROM payment WHERE payment.order_id = payable.order_id
  AND attempt_no > '{prefix}' || lpad('{count}', 9, '0');
UPDATE payment SET status = 'SUCCEEDED', paid_minor = amount_minor, paid_at = now(), channel_txn_id = 'OLD' || attempt_no
  WHERE attempt_no > '{prefix}' || lpad('{count}', 9, '0');
UPDATE attempt SET status = 'PAID', next_query_at = NULL WHERE attempt_no > '{prefix}' || lpad('{count}', 9, '0');
VACUUM ANALYZE payable; VACUUM ANALYZE payment; VACUUM ANALYZE attempt;
CHECKPOINT"""
SEED_TEXTBOOK = """
INSERT INTO payments.payment (id, order_id, merchant_id, attempt_no, status, amount_minor, currency, correlation_id,
                              created_at, event_sequence)
  SELECT 'pay_' || n, 'ord_' || n, 'mer_textbook', '{prefix}' || lpad(n::text, 9, '0'),
         CASE WHEN n > {count} THEN 'SUCCEEDED' ELSE 'PENDING' END, {amount}, 'CNY', 'bench-' || n, now(), 2
  FROM generate_series(1, {count} + {history}) AS n;
VACUUM ANALYZE payments.payment;
CHECKPOINT"""


def filled(text: str, *, prefix: str, count: int) -> str:
    """A statement of this module, or of a scenario, for `count` waiting payments beside the old ones."""
    return text.format(prefix=prefix, count=count, amount=AMOUNT_MINOR, history=HISTORY)


async def execute(dsn: str, statements: str) -> None:
    """Run statements one by one."""
    connection = await asyncpg.connect(dsn)
    try:
        for statement in statements.split(";"):
            # One by one: CHECKPOINT may not stand in the transaction of a multi-statement text.
            await connection.execute(statement)
    finally:
        await connection.close()


async def row(dsn: str, query: str) -> dict[str, int]:
    """The one row of a query: counts by name."""
    connection = await asyncpg.connect(dsn)
    try:
        found = await connection.fetchrow(query)
    finally:
        await connection.close()
    assert found is not None
    return dict(found)
