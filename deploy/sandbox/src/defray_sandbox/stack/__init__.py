"""The local stack: a real PostgreSQL, a real Apache Kafka, and what stands around the four services."""
