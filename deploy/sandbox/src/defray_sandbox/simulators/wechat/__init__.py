"""A payment channel that speaks WeChat Pay API v3, strict and with faults on demand."""
