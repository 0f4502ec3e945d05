"""What can go wrong in ways every service reacts to alike; the class says what to do."""


class RetryLater(Exception):
    """The world is not ready for this event yet: park its key and try again shortly."""


class Poison(Exception):
    """This event can never be applied: park its key with the reason, until a person has looked."""


class Overloaded(Exception):
    """A bounded queue is full; nothing was done. The caller may repeat (HTTP 503 with Retry-After)."""


class Unavailable(Exception):
    """Infrastructure is down and nothing was done. The caller may repeat (HTTP 503 with Retry-After)."""


class OutcomeUnknown(Exception):
    """The answer to COMMIT was lost: the work happened once or not at all. Never to be told as a failure."""


class ConfigInvalid(Exception):
    """The settings cannot be used; the message names every key that is wrong and never its value."""


class StartRefused(Exception):
    """The surroundings break a promise this process makes (durability, cluster, schema, lanes); it does not start."""
