"""Hear: what comes from outside becomes a command."""
