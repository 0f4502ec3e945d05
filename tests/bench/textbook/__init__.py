"""The textbook twin: the same four services as a good tutorial builds them, one row and one event at a time.

Plain FastAPI, pydantic and a SQLAlchemy session per request; an outbox that a loop empties row by row; consumers that
take one event, do its work in a transaction and commit the offset. Idempotent and balanced like ours, honestly written,
not slowed down on purpose: connection pools are large enough, keys are parsed once, clients are kept open.
"""
