"""The audit log's hashes, to be held against what was noted of them elsewhere."""

from collections.abc import Sequence

from defray_kernel.db import ReadConn, WriteTx
from defray_kernel.sql import queries

Q = queries(__file__)


async def freeze(tx: WriteTx) -> None:
    """From here on the transaction sees one moment; call it first."""
    await tx.execute(Q.freeze)


async def head(conn: ReadConn) -> tuple[int, bytes] | None:
    """Sequence number and hash of the last row; None when the head itself is gone."""
    row = await conn.fetchrow(Q.head)
    return None if row is None else (row["seq"], row["hash"])


async def hashes(conn: ReadConn, seqs: Sequence[int]) -> dict[int, bytes]:
    """The hashes of these rows."""
    return {row["seq"]: row["hash"] for row in await conn.fetch(Q.hashes, seqs)}
