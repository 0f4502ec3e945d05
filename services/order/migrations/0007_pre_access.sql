-- Buyers: sealed order by order, found by blind index, erased by losing the order's own key; and the way lists walk.

-- Keys this service made for itself, sealed with the data key. 'blind_index' turns what a buyer is looked up by into
-- digests; it never changes, because every digest would change with it.
CREATE TABLE made_key (
  name       text  PRIMARY KEY CHECK (length(name) BETWEEN 1 AND 64),
  key_sealed bytea NOT NULL CHECK (length(key_sealed) BETWEEN 48 AND 512)
);
GRANT SELECT, INSERT ON made_key TO __RUNTIME__;

-- Who an order is for: append-only by grant; what is unreadable stays as bytes.
CREATE TABLE order_buyer (
  order_id   uuid        PRIMARY KEY REFERENCES orders,
  enciphered bytea       NOT NULL CHECK (length(enciphered) BETWEEN 32 AND 4096),
  erased_at  timestamptz
);
GRANT SELECT, INSERT, UPDATE (erased_at) ON order_buyer TO __RUNTIME__;

-- What a buyer is looked up by: keyed digests of merchant, kind and value, gone when the buyer is erased.
CREATE TABLE buyer_digest (
  digest   bytea NOT NULL CHECK (length(digest) = 32),
  order_id uuid  NOT NULL REFERENCES order_buyer,
  kind     text  NOT NULL CHECK (kind IN ('email', 'phone', 'customer_ref')),
  PRIMARY KEY (digest, order_id)
);
CREATE INDEX buyer_digest_order ON buyer_digest (order_id);
GRANT SELECT, INSERT, DELETE ON buyer_digest TO __RUNTIME__;

-- Deleting a row makes every copy of that order's buyer unreadable: leave this table out of backups that are kept long.
CREATE TABLE buyer_key (
  order_id   uuid  PRIMARY KEY REFERENCES order_buyer,
  key_sealed bytea NOT NULL CHECK (length(key_sealed) BETWEEN 48 AND 512)
);
GRANT SELECT, INSERT, DELETE ON buyer_key TO __RUNTIME__;

CREATE INDEX orders_merchant ON orders (merchant_id, placed_at, order_id);
