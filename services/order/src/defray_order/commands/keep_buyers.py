"""Keep buyers: each sealed with a key of its own that the data key wraps, found by digests under a key that never leaves."""

import os
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import msgspec

from defray_kernel.crypto import Envelope, hmac_sha256
from defray_kernel.db import Database, ReadConn, WriteTx
from defray_kernel.ids import MerchantId, OrderId, show
from defray_order.domain.buyer import Buyer, LookUp
from defray_order.domain.seals import buyer_context, buyer_key_context, made_key_context
from defray_order.store import buyers
from defray_order.store.buyers import SealedBuyer

_INDEX: Final = "blind_index"
_KEY_BYTES: Final = 32
_OWN: Final = "own"  # key id of a buyer's own key: it has no successor


@dataclass(frozen=True, slots=True, kw_only=True)
class KeepBuyer:
    """Whose order is for whom."""

    order_id: OrderId
    merchant_id: MerchantId
    buyer: Buyer


class BuyerVault:
    """Seals, opens and digests. The index key is made once for the schema, by whichever process needs it first."""

    def __init__(self, database: Database, envelope: Envelope) -> None:
        self._database, self._envelope = database, envelope
        self._index_key: bytes | None = None

    async def keep(self, commands: Sequence[KeepBuyer], tx: WriteTx) -> None:
        """Insert the buyers of new orders, in the transaction that placed them."""
        if commands:
            key = await self._index()
            await buyers.keep(tx, [self._sealed(command, key) for command in commands])

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
        return _digest(await self._index(), merchant_id, kind, value)

    async def blind(self, hash_: bytes) -> bytes:
        """A keyed form of a hash over content with a buyer in it: by the plain one a phone number could be guessed."""
        return hmac_sha256(await self._index(), b"content\0" + hash_)

    def _sealed(self, command: KeepBuyer, index_key: bytes) -> SealedBuyer:
        key, order_id = os.urandom(_KEY_BYTES), command.order_id
        plain = msgspec.json.encode(command.buyer)
        return SealedBuyer(
            order_id=order_id,
            enciphered=Envelope({_OWN: key}, _OWN).seal(plain, buyer_context(order_id)),
            key_sealed=self._envelope.seal(key, buyer_key_context(order_id)),
            digests={
                kind: _digest(index_key, command.merchant_id, kind, value)
                for kind, value in command.buyer.look_ups().items()
            },
        )

    async def _index(self) -> bytes:
        if self._index_key is None:
            context = made_key_context(_INDEX)
            # In a transaction of its own: a key that were rolled back with somebody's order would digest for nobody.
            async with self._database.transaction() as tx:
                if await buyers.made_key(tx, _INDEX) is None:
                    await buyers.make_key(tx, _INDEX, self._envelope.seal(os.urandom(_KEY_BYTES), context))
                sealed = await buyers.made_key(tx, _INDEX)
            assert sealed is not None
            self._index_key = self._envelope.open(sealed, context)
        return self._index_key


def _digest(index_key: bytes, merchant_id: MerchantId, kind: LookUp, value: str) -> bytes:
    return hmac_sha256(index_key, f"{show('mer', merchant_id)}\0{kind}\0{value}".encode())
