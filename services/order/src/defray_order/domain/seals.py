"""The places that sealed values are bound to: moved to another row or column, a value does not open."""


def buyer_context(order_id: object) -> str:
    """Of an order's buyer, sealed with the buyer's own key."""
    return f"order_buyer.enciphered:{order_id}"


def buyer_key_context(order_id: object) -> str:
    """Of that key."""
    return f"buyer_key.key:{order_id}"


def made_key_context(name: str) -> str:
    """Of a key this service made for itself."""
    return f"made_key.key:{name}"


def rejected_context(rejected_id: object) -> str:
    """Of a stranger's record that could not be used."""
    return f"inbound_rejected.record:{rejected_id}"
