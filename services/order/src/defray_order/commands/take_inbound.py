"""Take what strangers ask: each request once, in order per key, by the rule of the other door; what cannot be used is named."""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Final

import msgspec

from defray_kernel import rounds
from defray_kernel.clock import Clock
from defray_kernel.contracts import inbound as reading
from defray_kernel.contracts.envelope import Cause
from defray_kernel.contracts.inbound import Request, Unusable
from defray_kernel.contracts.order_inbound_v1 import OrderCancelRequested, OrderRequested
from defray_kernel.db import WriteTx
from defray_kernel.ids import MerchantId, parse, uuid7
from defray_kernel.parking import Record
from defray_order.commands import apply_requests
from defray_order.commands.apply_requests import Asked
from defray_order.store import inbound
from defray_order.store.inbound import KnownMerchant, Rejected

_WAITING_MAX: Final = 10_000


@dataclass(slots=True)
class Taken:
    """What became of records: how many were used (or were repeats), which wait for their merchant, which were rejected."""

    used: int = 0
    waiting: list[tuple[MerchantId, Record]] = field(default_factory=list)
    rejected: list[Rejected] = field(default_factory=list)


class _Item(msgspec.Struct, frozen=True, kw_only=True):
    record: Record
    request: Request[Any]
    merchant_id: MerchantId
    digest: bytes
    content_hash: bytes


async def handle(records: Sequence[Record], tx: WriteTx, clock: Clock, *, may_wait: bool) -> Taken:
    """Use each record, in the order given per key. Raises faults of infrastructure and our own bugs, never for an input.

    `may_wait`: a request whose merchant is not known is set aside, and so is what comes behind it under its key; else
    it is rejected. One lock order: waiting rows, ids seen, then what placing and cancelling lock.
    """
    taken = Taken()
    items = _read(records, taken)
    known = await inbound.merchants(tx, sorted({item.merchant_id for item in items})) if items else {}
    items = await _set_aside(items, known, taken, tx, may_wait=may_wait)
    items = await _never_seen(items, taken, tx, clock)
    refused: list[bytes] = []
    for round_ in rounds.cut(items, lambda item: [f"{item.merchant_id} {item.request.data.merchant_order_no}"]):
        for kind in (OrderRequested, OrderCancelRequested):
            group = [item for item in round_ if isinstance(item.request.data, kind)]
            asked = [_asked(item, known[item.merchant_id]) for item in group]
            for item, refusal in zip(group, await apply_requests.handle(asked, tx, clock), strict=True):
                if refusal is None:
                    taken.used += 1
                else:
                    taken.rejected.append(rejected(item.record, refusal))
                    refused.append(item.digest)
    if refused:
        await inbound.forget(tx, refused)
    return taken


def rejected(record: Record, unusable: Unusable) -> Rejected:
    """A record with the reason why it cannot be used."""
    return Rejected(
        rejected_id=uuid7(),
        record=record,
        reason=unusable.code,
        field=unusable.field[:200],
        detail=unusable.detail[:300],
    )


def _read(records: Sequence[Record], taken: Taken) -> list[_Item]:
    items = []
    for record in records:
        try:
            request = reading.read(record.headers, record.key, record.value)
        except Unusable as unusable:
            taken.rejected.append(rejected(record, unusable))
            continue
        told = f"{len(request.source)} {request.source}{request.id}".encode()
        items.append(
            _Item(
                record=record,
                request=request,
                merchant_id=MerchantId(parse("mer", request.data.merchant_id)),
                digest=hashlib.sha256(told).digest(),
                content_hash=hashlib.sha256(request.data.TYPE.encode() + msgspec.json.encode(request.data)).digest(),
            )
        )
    return items


async def _set_aside(
    items: list[_Item],
    known: dict[MerchantId, KnownMerchant],
    taken: Taken,
    tx: WriteTx,
    *,
    may_wait: bool,
) -> list[_Item]:
    """What can be used now; a request behind one that waits, waits too, although its merchant became known meanwhile."""
    held = await inbound.waiting_among(tx, sorted({_key(item) for item in items})) if may_wait and items else set()
    go_on, wait = [], []
    for item in items:
        if _key(item) in held or item.merchant_id not in known:
            wait.append(item)
        else:
            go_on.append(item)
    room = 0
    if may_wait and wait:
        room = max(0, _WAITING_MAX - await inbound.count_waiting(tx, at_most=_WAITING_MAX))
    taken.waiting = [(item.merchant_id, item.record) for item in wait[:room]]
    # Also when too many wait already: somebody makes merchants up.
    unknown = Unusable("unknown_merchant", "merchant_id", "no merchant of this id is known")
    taken.rejected += [rejected(item.record, unknown) for item in wait[room:]]
    return go_on


async def _never_seen(items: list[_Item], taken: Taken, tx: WriteTx, clock: Clock) -> list[_Item]:
    """Without repeats, in this batch or ever. All ids are claimed before the first round: one lock order."""
    if not items:
        return []
    first: dict[bytes, _Item] = {}
    for item in items:
        first.setdefault(item.digest, item)
    before = await inbound.first_seen(
        tx, [(digest, item.content_hash) for digest, item in sorted(first.items())], clock.real()
    )
    fresh = []
    for item in items:
        original = before.get(item.digest, first[item.digest].content_hash)
        if original != item.content_hash:
            reused = Unusable("id_reused", "ce_id", "this source used this id for another request")
            taken.rejected.append(rejected(item.record, reused))
        elif item.digest in before or first[item.digest] is not item:
            taken.used += 1
        else:
            fresh.append(item)
    return fresh


def _asked(item: _Item, merchant: KnownMerchant) -> Asked:
    request = item.request
    cause = Cause(
        # The publisher's own word, where it gave one; it comes back in every event that follows.
        correlation_id=request.correlation_id or uuid7().hex,
        causation_id=request.id,
        traceparent=request.traceparent,
    )
    return Asked(data=request.data, merchant=merchant, cause=cause)


def _key(item: _Item) -> bytes:
    assert item.record.key is not None
    return item.record.key
