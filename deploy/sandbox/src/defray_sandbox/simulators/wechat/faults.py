"""What goes wrong on purpose: faults of the synchronous API and plans for callbacks, by order and by chance."""

import fnmatch
import random
from collections.abc import Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Protocol

PLANS_MAX = 1000


class Operation(StrEnum):
    """The operations of the channel that faults are planned for; ANY stands for all."""

    NATIVE = "native"
    QUERY = "query"
    QUERY_ID = "query_id"
    CLOSE = "close"
    ANY = "*"


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


class CallbackKind(StrEnum):
    """What is sent; all but the first must be refused by a careful merchant, except SECOND_GENERATION in an overlap."""

    GENUINE = "genuine"
    SECOND_GENERATION = "second_generation"
    TAMPERED = "tampered"
    PROBE = "probe"
    FORGED_KEY = "forged_key"
    UNKNOWN_SERIAL = "unknown_serial"
    STALE = "stale"
    FUTURE = "future"
    NO_SIGNATURE = "no_signature"
    WRONG_APIV3_KEY = "wrong_apiv3_key"


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

    def strikes(self, out_trade_no: str) -> bool:
        """Decide for one request, and use up one of the count if so."""
        if self.count == 0 or not fnmatch.fnmatchcase(out_trade_no, self.orders):
            return False
        if self.dice.random() >= self.probability:
            return False
        if self.count is not None:
            self.count -= 1
        return True


@dataclass(frozen=True, slots=True, kw_only=True)
class Fault:
    """One planned failure of the synchronous API."""

    chance: Chance
    operation: Operation
    moment: Moment
    action: Action
    delay_s: float
    retry_after_s: int | None
    code: str


@dataclass(frozen=True, slots=True, kw_only=True)
class CallbackPlan:
    """How the callbacks of an order are sent: the kinds in this order, `concurrent` all at once."""

    chance: Chance
    kinds: Sequence[CallbackKind]
    concurrent: bool
    delay_s: float
    never: bool
    before_answer: bool


class _Planned(Protocol):
    @property
    def chance(self) -> Chance: ...


class FaultPlan:
    """The faults that now hold, first match first."""

    def __init__(self) -> None:
        self._faults: list[Fault] = []
        self._callbacks: list[CallbackPlan] = []

    @property
    def has_faults(self) -> bool:
        """Whether any request can be struck."""
        return bool(self._faults)

    def add(self, fault: Fault) -> None:
        """Plan a fault."""
        _bounded(self._faults)
        self._faults.append(fault)

    def add_callbacks(self, plan: CallbackPlan) -> None:
        """Plan the callbacks of some orders."""
        _bounded(self._callbacks)
        self._callbacks.append(plan)

    def clear(self) -> None:
        """Everything works again."""
        self._faults.clear()
        self._callbacks.clear()

    def strike(self, operation: Operation, out_trade_no: str, moment: Moment) -> Fault | None:
        """The fault that hits this request now, if any."""
        for fault in self._faults:
            fits = fault.operation in (operation, Operation.ANY) and fault.moment is moment
            if fits and fault.chance.strikes(out_trade_no):
                return fault
        return None

    def callbacks_of(self, out_trade_no: str, *, before_answer: bool) -> CallbackPlan | None:
        """The plan for the callbacks of an order that is being created (`before_answer`) or was paid, if any."""
        fitting = (plan for plan in self._callbacks if plan.before_answer is before_answer)
        return next((plan for plan in fitting if plan.chance.strikes(out_trade_no)), None)


def _bounded(plans: Sequence[_Planned]) -> None:
    if len(plans) >= PLANS_MAX:
        raise ValueError(f"more than {PLANS_MAX} plans")
