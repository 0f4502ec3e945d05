"""The places that sealed values are bound to: moved to another row or column, a value does not open."""


def callback_context(channel: str, callback_id: str) -> str:
    """Of a raw callback."""
    return f"callback.raw:{channel}:{callback_id}"


def action_context(attempt_no: str) -> str:
    """Of what the payer of an attempt does next."""
    return f"attempt.action:{attempt_no}"


def payer_context(attempt_no: str) -> str:
    """Of what is known of an attempt's payer."""
    return f"attempt.payer:{attempt_no}"


def account_context(account_id: object) -> str:
    """Of the keys of an account at a channel."""
    return f"channel_account.secrets:{account_id}"
