"""A merchant's orders as CSV: read page by page and sent row by row, so that a long export needs no more memory than a short one."""

from __future__ import annotations

import csv
import datetime as dt
import io
from collections.abc import AsyncGenerator, Sequence
from typing import Final

from defray_kernel.db import Database
from defray_kernel.http import Call, Edge, Reply
from defray_kernel.ids import MerchantId, show
from defray_kernel.problems import Problem
from defray_order.domain.order import OrderState
from defray_order.entrypoints.order_list import MOMENT, STATUS, moment, read
from defray_order.store import order_pages
from defray_order.store.order_pages import ListedOrder, Place, Wanted

SPAN_MAX: Final = dt.timedelta(days=31)
RUNNING_MAX: Final = 4
_PAGE: Final = 1_000
_RETRY_S: Final = 10
_FILTERS: Final = frozenset({"status", "created_from", "created_before"})
_HEADER: Final = (
    "order_id", "merchant_order_no", "status", "currency", "amount_minor", "refunded_minor", "placed_at", "expires_at",
    "paid_at", "closing_reason", "payment_id", "correlation_id",
)  # fmt: skip
# What a spreadsheet would take for a formula (OWASP, CSV injection).
_FORMULA: Final = ("=", "+", "-", "@", "\t", "\r")


class OrderExport:
    """The handler; one export per merchant at a time, and few together."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self._running: set[MerchantId] = set()

    def declare(self, edge: Edge) -> None:
        """Add the route; before `/v1/orders/{order_id}`, which would take its name for an id."""
        edge.route("GET", "/v1/orders/export.csv", self.export, scope="orders:read",
                   summary="Export orders placed from created_from and before created_before, up to 31 days, as CSV",
                   query={"created_from": MOMENT, "created_before": MOMENT, "status": STATUS},
                   media_type="text/csv")  # fmt: skip

    async def export(self, call: Call[None]) -> Reply:
        """The first page is read before the reply begins: what is wrong can still be told."""
        if not set(call.query) <= _FILTERS:
            raise Problem("invalid_parameter")
        wanted = _wanted(call)
        if wanted.merchant_id in self._running or len(self._running) >= RUNNING_MAX:
            raise Problem("rate_limited", retry_after_s=_RETRY_S)
        first = await self._page(wanted, None)
        return Reply(
            content=self._rows(wanted, first),
            content_type="text/csv; charset=utf-8; header=present",
            headers={"Content-Disposition": 'attachment; filename="orders.csv"'},
        )

    async def _rows(self, wanted: Wanted, page: Sequence[ListedOrder]) -> AsyncGenerator[bytes, None]:
        self._running.add(wanted.merchant_id)
        try:
            yield _lines([_HEADER])
            while page:
                yield _lines([_row(order) for order in page])
                last = page[-1]
                # No connection is held while the caller reads.
                page = (
                    await self._page(wanted, Place(placed_at=last.placed_at, order_id=last.order_id))
                    if len(page) == _PAGE
                    else ()
                )
        finally:
            self._running.discard(wanted.merchant_id)

    async def _page(self, wanted: Wanted, after: Place | None) -> list[ListedOrder]:
        async with self._database.read() as conn:
            return await order_pages.page(conn, wanted, after=after, limit=_PAGE)


def _wanted(call: Call[None]) -> Wanted:
    assert call.merchant is not None
    since, until = read(call, "created_from", moment), read(call, "created_before", moment)
    if since is None:
        raise Problem("invalid_parameter", field="created_from")
    if until is None or not dt.timedelta(0) < until - since <= SPAN_MAX:
        raise Problem("invalid_parameter", field="created_before", detail="an export spans at most 31 days")
    state = read(call, "status", OrderState)
    return Wanted(merchant_id=call.merchant.merchant_id, state=state, created_from=since, created_before=until)


def _row(order: ListedOrder) -> Sequence[str]:
    cells = (
        show("ord", order.order_id),
        order.merchant_order_no,
        order.state,
        order.total.currency,
        order.total.minor,
        order.refunded_minor,
        _time(order.placed_at),
        _time(order.expires_at),
        _time(order.paid_at),
        order.closing_reason or "",
        "" if order.payment_id is None else show("pay", order.payment_id),
        order.correlation_id,
    )
    return [_harmless(str(cell)) for cell in cells]


def _harmless(cell: str) -> str:
    return f"'{cell}" if cell.startswith(_FORMULA) else cell


def _time(at: dt.datetime | None) -> str:
    return "" if at is None else at.astimezone(dt.UTC).isoformat(timespec="microseconds").replace("+00:00", "Z")


def _lines(rows: Sequence[Sequence[str]]) -> bytes:
    text = io.StringIO()
    csv.writer(text).writerows(rows)  # RFC 4180: CRLF, quotes where needed
    return text.getvalue().encode()
