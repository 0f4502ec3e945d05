"""What a claim must prove before it may move money's state, as evidence: each check with both sides and its result."""

from uuid import UUID

import msgspec

from defray_payment.domain.payment import Payment
from defray_payment.domain.refund import Refund
from defray_payment.domain.refusals import CaseReason
from defray_payment.domain.reports import ChannelAccount, Claim, RefundClaim, RefundReport, Report


class Check(msgspec.Struct, frozen=True, kw_only=True):
    """One comparison; `reason` is what a failure is called."""

    name: str
    reason: CaseReason
    expected: str
    reported: str | None
    passed: bool


def examine(
    claim: Claim,
    payment: Payment,
    account: ChannelAccount,
    txn_owner: UUID | None,
    attempt_account: UUID | None = None,
) -> tuple[Check, ...]:
    """All checks of one claim in order of precedence: identity first, then money, then the channel's own number.

    A claim of payment must tell everything; another claim is held only to what it tells. `txn_owner` is the payment
    that the channel's transaction already paid, if any. `attempt_account` is where the attempt was made: nobody's
    account may vouch for what is another's.
    """
    paid = claim.report is Report.PAID
    checks = [
        _equal("merchant", CaseReason.MERCHANT_MISMATCH, account.merchant_ref, claim.merchant_ref, required=paid),
        _equal("app", CaseReason.APP_MISMATCH, account.app_ref, claim.app_ref, required=paid),
        _equal("currency", CaseReason.CURRENCY_MISMATCH, payment.amount.currency, claim.currency, required=paid),
        _equal("amount", CaseReason.AMOUNT_MISMATCH, payment.amount.minor, claim.amount_minor, required=paid),
    ]
    if attempt_account is not None:
        reporter = account.account_id
        checks.insert(0, _equal("account", CaseReason.ACCOUNT_MISMATCH, attempt_account, reporter, required=False))
    if paid:
        owner_fits = txn_owner is None or txn_owner == payment.payment_id
        checks += [
            Check(
                name="channel_txn",
                reason=CaseReason.TXN_MISSING,
                expected="any",
                reported=claim.channel_txn_id,
                passed=bool(claim.channel_txn_id),
            ),
            Check(
                name="channel_txn_unused",
                reason=CaseReason.TXN_REUSED,
                expected="unused",
                reported=None if txn_owner is None else str(txn_owner),
                passed=owner_fits,
            ),
        ]
    return tuple(checks)


def examine_refund(claim: RefundClaim, refund: Refund, account: ChannelAccount) -> tuple[Check, ...]:
    """The same of a claim about a refund. Channels leave out much of it; what they tell must fit, and success its amount."""
    done = claim.report is RefundReport.SUCCEEDED
    reporter, known = account.account_id, refund.channel_refund_id
    checks = [
        _equal("merchant", CaseReason.MERCHANT_MISMATCH, account.merchant_ref, claim.merchant_ref, required=False),
        _equal("app", CaseReason.APP_MISMATCH, account.app_ref, claim.app_ref, required=False),
        _equal("attempt", CaseReason.ATTEMPT_MISMATCH, refund.attempt_no, claim.attempt_no, required=False),
        _equal("currency", CaseReason.CURRENCY_MISMATCH, refund.amount.currency, claim.currency, required=False),
        _equal("amount", CaseReason.AMOUNT_MISMATCH, refund.amount.minor, claim.amount_minor, required=done),
    ]
    if refund.account_id is not None:
        checks.insert(0, _equal("account", CaseReason.ACCOUNT_MISMATCH, refund.account_id, reporter, required=False))
    if known is not None:
        told = claim.channel_refund_id
        checks.append(_equal("channel_refund", CaseReason.REFUND_ID_CHANGED, known, told, required=False))
    return tuple(checks)


def first_failure(checks: tuple[Check, ...]) -> CaseReason | None:
    """The failure that counts."""
    return next((check.reason for check in checks if not check.passed), None)


def _equal(name: str, reason: CaseReason, expected: object, reported: object, *, required: bool) -> Check:
    passed = reported == expected if reported is not None else not required
    return Check(
        name=name,
        reason=reason,
        expected=str(expected),
        reported=None if reported is None else str(reported)[:100],
        passed=passed,
    )
