"""Registers the fixtures that give every test of the repository a real PostgreSQL and a real Kafka."""

pytest_plugins = ("defray_sandbox.pytest_plugin",)
