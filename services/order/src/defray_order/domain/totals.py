"""Whether an order's lines add up to its total, to the minor unit."""

from collections.abc import Sequence

from defray_kernel.money import MINOR_MAX
from defray_order.domain.order import OrderItem


def mismatch(items: Sequence[OrderItem], total_minor: int, *, with_coupons: bool = False) -> str | None:
    """The field that does not add up, as the request names it; None when all do.

    `with_coupons`: the total may be less than the lines; by how much is known when the coupons are looked at.
    """
    for index, item in enumerate(items):
        if item.amount_minor < 0:
            return f"items[{index}].discount_minor"
    cost = sum(item.amount_minor for item in items)
    if cost > MINOR_MAX:
        return "items"  # Coupons may take it off again, but no sum may be larger on the way.
    fits = total_minor <= cost if with_coupons else total_minor == cost
    return None if fits else "amount_minor"
