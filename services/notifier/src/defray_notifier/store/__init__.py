"""Remember: all SQL of this service, named."""
