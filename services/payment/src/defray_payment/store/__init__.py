"""All SQL of this service: set-based and named, one .sql beside each module."""
