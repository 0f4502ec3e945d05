"""What goes wrong on purpose: faults of a synchronous API, plans for callbacks, payers and refunds, by order and chance."""

import asyncio
import fnmatch
import random
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from typing import TypeVar

PLANS_MAX = 1000
ANY = "*"
_Held = TypeVar("_Held")
_Reply = TypeVar("_Reply")


class Moment(StrEnum):
    """Whether the channel did the work before it failed."""

    BEFORE_APPLY = "before_apply"
    AFTER_APPLY = "after_apply"


class Action(StrEnum):
    """How a request fails."""

    DELAY = "delay"
    DROP = "drop"
    INTERNAL = "500"
    BAD_GATEWAY = "502"
    RATE_LIMITED = "429"
    REFUSE = "refuse"
    GARBAGE = "garbage"
    UNSIGNED = "unsigned"
    WRONG_KEY = "wrong_key"
    TRUNCATED = "truncated"


class Payer(StrEnum):
    """What a payer does whose code is scanned."""

    PAYS = "pays"
    TYPES_PASSWORD = "types_password"  # noqa: S105  It is a word for a behaviour.
    IS_DECLINED = "is_declined"


class Outcome(StrEnum):
    """What becomes of an accepted refund; PENDING stays open until it is settled by hand."""

    SUCCESS = "success"
    ABNORMAL = "abnormal"
    CLOSED = "closed"
    PENDING = "pending"


@dataclass(slots=True, kw_only=True)
class Chance:
    """Which orders a plan is for, how often it still applies (None = always) and how likely."""

    orders: str
    count: int | None
    probability: float
    seed: int
    dice: random.Random = field(init=False)

    def __post_init__(self) -> None:
        self.dice = random.Random(self.seed)  # noqa: S311  Faults must repeat with their seed.

    def strikes(self, number: str) -> bool:
        """Decide for one request, and use up one of the count if so."""
        if self.count == 0 or not fnmatch.fnmatchcase(number, self.orders):
            return False
        if self.dice.random() >= self.probability:
            return False
        if self.count is not None:
            self.count -= 1
        return True


@dataclass(frozen=True, slots=True, kw_only=True)
class Fault:
    """One planned failure of the synchronous API; `operation` may be ANY."""

    chance: Chance
    operation: str
    moment: Moment
    action: Action
    delay_s: float
    retry_after_s: int | None
    code: str


@dataclass(frozen=True, slots=True, kw_only=True)
class CallbackPlan:
    """How the callbacks of an order are sent: the kinds in this order, `concurrent` all at once.

    With `reorder`, so many rounds are held back and then sent last first.
    """

    chance: Chance
    kinds: Sequence[str]
    concurrent: bool
    delay_s: float
    never: bool
    before_answer: bool
    reorder: int = 0
    held: list[object] = field(default_factory=list)


@dataclass(frozen=True, slots=True, kw_only=True)
class PayerPlan:
    """How the payers of some orders behave."""

    chance: Chance
    payer: Payer


@dataclass(frozen=True, slots=True, kw_only=True)
class RefundPlan:
    """What becomes of the refunds with these numbers, so many seconds of business time after they were accepted."""

    chance: Chance
    outcome: Outcome
    after_s: float


class FaultPlan:
    """What now holds; the first match counts."""

    def __init__(self) -> None:
        self._faults: list[Fault] = []
        self._callbacks: list[CallbackPlan] = []
        self._payers: list[PayerPlan] = []
        self._refunds: list[RefundPlan] = []

    @property
    def has_faults(self) -> bool:
        """Whether any request can be struck."""
        return bool(self._faults)

    def add(self, fault: Fault) -> None:
        """Plan a fault. Raises ValueError when there are too many."""
        _add(self._faults, fault)

    def add_callbacks(self, plan: CallbackPlan) -> None:
        """Plan the callbacks of some orders. Raises ValueError when there are too many plans."""
        _add(self._callbacks, plan)

    def add_payers(self, plan: PayerPlan) -> None:
        """Plan how some payers behave; the latest plan goes first. Raises ValueError when there are too many."""
        _add(self._payers, plan)

    def add_refunds(self, plan: RefundPlan) -> None:
        """Plan what becomes of some refunds; the latest plan goes first. Raises ValueError when there are too many."""
        _add(self._refunds, plan)

    def clear(self) -> None:
        """Everything works again."""
        self._faults.clear()
        self._callbacks.clear()
        self._payers.clear()
        self._refunds.clear()

    def strike(self, operation: str, number: str, moment: Moment) -> Fault | None:
        """The fault that hits this request now, if any."""
        for fault in self._faults:
            fits = fault.operation in (operation, ANY) and fault.moment is moment
            if fits and fault.chance.strikes(number):
                return fault
        return None

    def callbacks_of(self, number: str, *, before_answer: bool) -> CallbackPlan | None:
        """The plan for the callbacks of an order that is being created (`before_answer`) or was paid, if any."""
        fitting = (plan for plan in self._callbacks if plan.before_answer is before_answer)
        return next((plan for plan in fitting if plan.chance.strikes(number)), None)

    def payer_of(self, number: str) -> Payer:
        """How the payer of this order behaves; without a plan it pays."""
        return next((plan.payer for plan in reversed(self._payers) if plan.chance.strikes(number)), Payer.PAYS)

    def refund_of(self, number: str) -> RefundPlan | None:
        """What becomes of the refund with this number, if that is planned."""
        return next((plan for plan in reversed(self._refunds) if plan.chance.strikes(number)), None)


async def serve(
    plan: FaultPlan,
    operation: str,
    number: str,
    *,
    act: Callable[[], Awaitable[_Reply]],
    counterfeit: Callable[[], _Reply] | None,
    spoil: Callable[[_Reply, Fault], Awaitable[_Reply]],
) -> _Reply:
    """Do the work of one request with the faults that are planned for it.

    `counterfeit` is a reply that claims success although nothing was done; None for an operation that changes nothing.
    """
    before = plan.strike(operation, number, Moment.BEFORE_APPLY)
    if before is not None and before.action is Action.DELAY:
        await asyncio.sleep(before.delay_s)
        before = None
    if before is not None and counterfeit is not None:
        return await spoil(counterfeit(), before)
    reply = await act()
    # Nothing is applied by a query: the moment makes no difference.
    after = plan.strike(operation, number, Moment.AFTER_APPLY) or before
    if after is None:
        return reply
    if after.action is Action.DELAY:
        await asyncio.sleep(after.delay_s)
        return reply
    return await spoil(reply, after)


def _add(plans: list[_Held], plan: _Held) -> None:
    if len(plans) >= PLANS_MAX:
        raise ValueError(f"more than {PLANS_MAX} plans")
    plans.append(plan)
