"""Defray settlement service."""
