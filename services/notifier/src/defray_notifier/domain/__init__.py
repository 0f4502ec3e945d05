"""Rule: pure; no clock, no database, no network."""
