"""Helpers for tests of every service; nothing here is imported by the product."""
