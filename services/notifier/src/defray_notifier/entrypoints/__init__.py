"""Hear: what reaches this service, by HTTP, by event and by time."""
