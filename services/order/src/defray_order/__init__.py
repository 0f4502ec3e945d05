"""Defray order service."""
