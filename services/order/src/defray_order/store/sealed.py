"""All that this service keeps sealed with its data key: buyers' own keys, the keys it made, and what strangers sent."""

from collections.abc import Mapping, Sequence
from uuid import UUID

from defray_kernel.db import ReadConn, WriteTx
from defray_kernel.sql import queries

Q = queries(__file__)


async def buyer_keys_page(conn: ReadConn, key_id: str, *, after: UUID, limit: int) -> list[tuple[UUID, bool]]:
    """The next orders with a buyer, each with whether the buyer's key is sealed with another key than `key_id`."""
    return [
        (row["order_id"], row["stale"]) for row in await conn.fetch(Q.buyer_keys_page, key_id.encode(), after, limit)
    ]


async def lock_buyer_keys(tx: WriteTx, key_id: str, order_ids: Sequence[UUID]) -> dict[UUID, bytes]:
    """Those that are still stale, not erased meanwhile and held by nobody, locked."""
    return {row["order_id"]: row["key_sealed"] for row in await tx.fetch(Q.lock_buyer_keys, key_id.encode(), order_ids)}


async def write_buyer_keys(tx: WriteTx, sealed: Mapping[UUID, bytes]) -> None:
    """Put new seals on locked rows."""
    await tx.execute(Q.write_buyer_keys, list(sealed), list(sealed.values()))


async def lock_made_keys(tx: WriteTx, key_id: str) -> dict[str, bytes]:
    """The stale ones of the keys this service made, by name; there are few."""
    return {row["name"]: row["key_sealed"] for row in await tx.fetch(Q.lock_made_keys, key_id.encode())}


async def write_made_keys(tx: WriteTx, sealed: Mapping[str, bytes]) -> None:
    """Put new seals on them."""
    await tx.execute(Q.write_made_keys, list(sealed), list(sealed.values()))


async def rejected_page(conn: ReadConn, key_id: str, *, after: UUID, limit: int) -> list[tuple[UUID, bool]]:
    """The next of strangers' records that could not be used, each with whether it is sealed with another key."""
    rows = await conn.fetch(Q.rejected_page, key_id.encode(), after, limit)
    return [(row["rejected_id"], row["stale"]) for row in rows]


async def lock_rejected(tx: WriteTx, key_id: str, rejected_ids: Sequence[UUID]) -> dict[UUID, bytes]:
    """Those that are still stale and held by nobody, locked."""
    rows = await tx.fetch(Q.lock_rejected, key_id.encode(), rejected_ids)
    return {row["rejected_id"]: row["record_sealed"] for row in rows}


async def write_rejected(tx: WriteTx, sealed: Mapping[UUID, bytes]) -> None:
    """Put new seals on them."""
    await tx.execute(Q.write_rejected, list(sealed), list(sealed.values()))
