"""Merchants' policies as the projection of the registry has them."""

from collections.abc import Sequence

import msgspec

from defray_kernel.contracts.merchant_v1 import MerchantState
from defray_kernel.db import ReadConn
from defray_kernel.ids import MerchantId
from defray_kernel.sql import queries

Q = queries(__file__)


class LateMoneyPolicy(msgspec.Struct, frozen=True, kw_only=True):
    """What becomes of money that comes after an order has ended; who is not active takes no orders, reopened or new."""

    reopen: bool
    active: bool


async def late_money(conn: ReadConn, merchant_ids: Sequence[MerchantId]) -> dict[MerchantId, LateMoneyPolicy]:
    """The policies of the merchants that are known."""
    found = {}
    for row in await conn.fetch(Q.late_money, merchant_ids):
        state = msgspec.json.decode(row["state"], type=MerchantState)
        active = row["status"] == "ACTIVE" and not state.suspended
        found[MerchantId(row["merchant_id"])] = LateMoneyPolicy(reopen=state.late_money == "reopen", active=active)
    return found
