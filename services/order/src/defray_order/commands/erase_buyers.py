"""Erase a buyer: the keys to what is known of it go, orders and sums stay; asking again changes nothing."""

from dataclasses import dataclass
from typing import Final

from defray_kernel import audit
from defray_kernel.clock import Clock
from defray_kernel.db import WriteTx
from defray_kernel.ids import MerchantId, show
from defray_order.domain.buyer import LookUp
from defray_order.store import buyers

ORDERS_MAX: Final = 10_000


@dataclass(frozen=True, slots=True, kw_only=True)
class EraseBuyer:
    """Who asks to erase whom: the digest of what the buyer is found by, its kind, and the API key's id."""

    merchant_id: MerchantId
    key_id: str
    kind: LookUp
    digest: bytes
    orders_max: int = ORDERS_MAX


@dataclass(frozen=True, slots=True, kw_only=True)
class Erased:
    """In how many orders the buyer was erased; not `complete`: there are more than one act takes, ask again."""

    orders: int
    complete: bool


async def handle(command: EraseBuyer, tx: WriteTx, clock: Clock) -> Erased:
    """Erase and audit; an act that found nothing is audited too, for it may be asked for as evidence."""
    found = await buyers.found_by(tx, command.digest, limit=command.orders_max + 1)
    erased = await buyers.erase(tx, found[: command.orders_max], clock.now()) if found else 0
    await audit.append(
        tx,
        actor=f"{show('mer', command.merchant_id)} {command.key_id}",
        action="order.buyer.erase",
        subject=show("mer", command.merchant_id),
        clock=clock,
        detail={"by": command.kind, "orders": erased},
    )
    return Erased(orders=erased, complete=len(found) <= command.orders_max)
