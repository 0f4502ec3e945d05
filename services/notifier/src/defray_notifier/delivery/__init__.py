"""The outside world: merchants' endpoints, reached with care."""
