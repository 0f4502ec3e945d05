"""How outcomes are put for callers of the merchant API: status and body, the same to the byte when told again."""

from typing import Final

import msgspec

from defray_kernel.clock import Clock
from defray_kernel.crypto import Envelope
from defray_kernel.problems import Problem, ProblemKind, Problems
from defray_payment import announce
from defray_payment.announce import PaymentBody
from defray_payment.domain.attempt import UNSETTLED, Attempt
from defray_payment.domain.payment import LIVE, Payment, PaymentStatus
from defray_payment.domain.refund import Refund, RefundStatus
from defray_payment.domain.refusals import FailureCode, RefundRefusal, StartRefusal
from defray_payment.domain.seals import action_context

PROBLEMS: Final = (
    ProblemKind(code="unsupported_channel", status=422, title="This channel is not offered"),
    ProblemKind(code="unsupported_product", status=422, title="The channel does not offer this product"),
    ProblemKind(
        code=StartRefusal.ORDER_MISMATCH, status=409, title="The payment token does not tell the order as known"
    ),
    ProblemKind(code=StartRefusal.ORDER_PAID, status=409, title="The order is paid"),
    ProblemKind(code=StartRefusal.ORDER_CLOSED, status=409, title="The order ends or has ended; it cannot be paid"),
    ProblemKind(code=StartRefusal.ORDER_EXPIRED, status=409, title="The order has expired"),
    ProblemKind(
        code=StartRefusal.ATTEMPT_UNKNOWN,
        status=409,
        title="The outcome of another attempt is not known yet; ask again when it is",
    ),
    ProblemKind(code=FailureCode.CHANNEL_DECLINED, status=422, title="The channel declined the payment"),
    ProblemKind(code=FailureCode.CHANNEL_REFUSED, status=422, title="The channel refused the payment"),
    ProblemKind(code=RefundRefusal.PAYMENT_NOT_PAID, status=409, title="Nothing was paid that could be refunded"),
    ProblemKind(
        code=RefundRefusal.REFUND_EXCEEDS_PAID, status=409, title="More than what is left of the payment cannot go back"
    ),
    ProblemKind(code=RefundRefusal.TOO_MANY_REFUNDS, status=409, title="The channel takes no more refunds of it"),
    ProblemKind(
        code=RefundRefusal.REFUND_WINDOW_OVER, status=409, title="The channel's time for refunds of it is over"
    ),
    ProblemKind(code=FailureCode.REFUND_REFUSED, status=422, title="The channel refused the refund"),
    ProblemKind(code=FailureCode.REFUND_FAILED, status=422, title="The refund failed at the channel"),
)


class Answers:
    """Encodes payments and refusals; opens the sealed next action for those who may see the payment."""

    def __init__(self, envelope: Envelope, problems: Problems, clock: Clock) -> None:
        self._envelope, self._problems, self._clock = envelope, problems, clock

    def show(self, payment: Payment, attempt: Attempt) -> PaymentBody:
        """The payment, with what the payer does next while that is of use."""
        sealed, ends = attempt.action_sealed, attempt.action_expires_at
        useful = payment.status in LIVE and not attempt.closing and ends is not None and self._clock.now() < ends
        if sealed is None or not useful:
            return announce.body(payment, None)
        return announce.body(payment, self._envelope.open(sealed, action_context(attempt.attempt_no)))

    def payment(self, payment: Payment, attempt: Attempt) -> tuple[int, bytes]:
        """201 with the payment; 202 while the channel's answer is out; the failure's problem when it failed."""
        if payment.status is PaymentStatus.FAILED:
            return self.refusal(payment.failure_code or FailureCode.CHANNEL_REFUSED, payment.correlation_id)
        waiting = payment.status in LIVE and attempt.status in UNSETTLED
        return 202 if waiting else 201, msgspec.json.encode(self.show(payment, attempt))

    def refund(self, refund: Refund) -> tuple[int, bytes]:
        """201 with the refund; 202 while the channel's answer is out; the failure's problem when it failed."""
        if refund.status is RefundStatus.FAILED:
            return self.refusal(refund.failure_code or FailureCode.REFUND_FAILED, refund.correlation_id)
        status = 202 if refund.status is RefundStatus.REQUESTED else 201
        return status, msgspec.json.encode(announce.refund_body(refund))

    def refusal(self, code: str, correlation_id: str) -> tuple[int, bytes]:
        """The problem of this code."""
        return self._problems.encode(Problem(code), correlation_id)
