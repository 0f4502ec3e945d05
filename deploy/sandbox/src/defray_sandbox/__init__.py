"""The local sandbox: a real Postgres, a real Kafka, the four services, and the channel simulator."""
