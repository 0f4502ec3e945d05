"""Defray notifier service."""
