"""Decide: one file for each thing the service can be asked to do."""
