"""Keep buyers: each sealed with a key of its own that the data key wraps, found by digests under a key that never leaves."""

import os
from typing import Final

import msgspec

from defray_kernel.crypto import Envelope, hmac_sha256
from defray_kernel.db import Database, ReadConn
from defray_kernel.ids import MerchantId, OrderId, show
from defray_order.commands.make_key import MadeKey
from defray_order.commands.place_order import PlaceOrder
from defray_order.domain.buyer import Buyer, LookUp
from defray_order.domain.seals import buyer_context, buyer_key_context
from defray_order.store import buyers
from defray_order.store.buyers import SealedBuyer

_INDEX: Final = "blind_index"
_KEY_BYTES: Final = 32
_OWN: Final = "own"  # key id of a buyer's own key: it has no successor


class BuyerVault:
    """Seals, opens and digests."""

    def __init__(self, database: Database, envelope: Envelope) -> None:
        self._envelope, self._index = envelope, MadeKey(database, envelope, _INDEX)

    async def sealed_into(self, command: PlaceOrder, buyer: Buyer) -> PlaceOrder:
        """The same command with its buyer sealed, and its hashes over both.

        The hashes are keyed: they are kept for long beside the order's own content, and by plain ones a telephone
        number could be guessed.
        """
        index_key, plain = await self._index.get(), msgspec.json.encode(buyer)
        return msgspec.structs.replace(
            command,
            content_hash=hmac_sha256(index_key, b"content\0" + command.content_hash + plain),
            request_hash=hmac_sha256(index_key, b"request\0" + command.request_hash),
            buyer=self._sealed(command, buyer, index_key),
        )

    async def show(self, conn: ReadConn, order_id: OrderId) -> tuple[SealedBuyer, Buyer | None] | None:
        """The order's buyer as kept, and in the clear unless erased; None when it has none. Raises CannotOpen."""
        kept = (await buyers.of_orders(conn, [order_id])).get(order_id)
        if kept is None or kept.key_sealed is None:
            return None if kept is None else (kept, None)
        key = self._envelope.open(kept.key_sealed, buyer_key_context(order_id))
        plain = Envelope({_OWN: key}, _OWN).open(kept.enciphered, buyer_context(order_id))
        return kept, msgspec.json.decode(plain, type=Buyer)

    async def digest(self, merchant_id: MerchantId, kind: LookUp, value: str) -> bytes:
        """What orders of this merchant's buyer are found by; `value` in its normal form."""
        return _digest(await self._index.get(), merchant_id, kind, value)

    def _sealed(self, command: PlaceOrder, buyer: Buyer, index_key: bytes) -> SealedBuyer:
        key, order_id = os.urandom(_KEY_BYTES), command.order_id
        return SealedBuyer(
            order_id=order_id,
            enciphered=Envelope({_OWN: key}, _OWN).seal(msgspec.json.encode(buyer), buyer_context(order_id)),
            key_sealed=self._envelope.seal(key, buyer_key_context(order_id)),
            digests={
                kind: _digest(index_key, command.merchant_id, kind, value) for kind, value in buyer.look_ups().items()
            },
        )


def _digest(index_key: bytes, merchant_id: MerchantId, kind: LookUp, value: str) -> bytes:
    return hmac_sha256(index_key, f"{show('mer', merchant_id)}\0{kind}\0{value}".encode())
