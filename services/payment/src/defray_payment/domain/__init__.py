"""The rules of payments: pure, per item, without I/O, clock or database."""
