-- A merchant can be suspended: it places no orders until it is resumed, and all else goes on.
ALTER TABLE merchant DROP CONSTRAINT merchant_status_check;
ALTER TABLE merchant ADD CONSTRAINT merchant_status_check CHECK (status IN ('ACTIVE', 'SUSPENDED', 'DISABLED'));
