"""Whether an order's lines add up to its total, to the minor unit."""

from collections.abc import Sequence

from defray_order.domain.order import OrderItem


def mismatch(items: Sequence[OrderItem], total_minor: int) -> str | None:
    """The field that does not add up, as the request names it; None when all do."""
    for index, item in enumerate(items):
        if item.amount_minor < 0:
            return f"items[{index}].discount_minor"
    return "amount_minor" if sum(item.amount_minor for item in items) != total_minor else None
