"""A payment channel that speaks WeChat Pay API v3 for the Native product, strict and with faults on demand."""
