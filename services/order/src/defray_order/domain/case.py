"""A case: something that happened to an order and that a person must look at."""

import datetime as dt

import msgspec

from defray_kernel.contracts.envelope import Cause
from defray_kernel.ids import CaseId, OrderId
from defray_order.domain.order import Refusal


class Case(msgspec.Struct, frozen=True, kw_only=True):
    """At most one per order, reason and subject (the payment or payable that was reported)."""

    case_id: CaseId
    order_id: OrderId
    reason: Refusal
    subject: str
    detail: str
    opened_at: dt.datetime
    cause: Cause
