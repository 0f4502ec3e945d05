"""Decide: one file for each thing this service can be asked to do."""
