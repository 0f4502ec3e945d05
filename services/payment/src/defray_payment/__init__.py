"""Defray payment service."""
