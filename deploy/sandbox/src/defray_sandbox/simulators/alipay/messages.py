"""Which key signs, and the notifications of this channel: the courier brings them, this makes them."""

import asyncio
from collections.abc import Iterable, Sequence
from concurrent.futures import Executor

from defray_sandbox.simulators.alipay.keys import AlipayKey, ChannelKeys
from defray_sandbox.simulators.alipay.ledger import Ledger, Notification
from defray_sandbox.simulators.alipay.notices import CallbackKind, sign_notice
from defray_sandbox.simulators.clock import ChannelClock
from defray_sandbox.simulators.courier import ROUND_KINDS_MAX, Notice, Round

# Seconds after each refused or lost notification: at once, then 4m, 10m, 10m, 1h, 2h, 6h, 15h.
SCHEDULE_S = (240, 600, 600, 3600, 7200, 21600, 54000)
SUCCESS = b"success"


class SigningKeys:
    """Which generation of the channel's key signs replies and notifications."""

    def __init__(self, keys: ChannelKeys) -> None:
        self.keys = keys
        self.generation = 0

    @property
    def current(self) -> AlipayKey:
        """The key in use."""
        return self.keys.generations[self.generation]


class AlipayMessages:
    """The notifications in the ledger, as the courier wants them; a round's topic is the notification's id."""

    schedule_s: Sequence[float] = SCHEDULE_S
    answer_within_s = 5.0
    true_kinds: frozenset[str] = frozenset(
        {CallbackKind.GENUINE, CallbackKind.SECOND_GENERATION, CallbackKind.BLANK_FIELD}
    )

    def __init__(self, *, signing: SigningKeys, ledger: Ledger, clock: ChannelClock, signers: Executor) -> None:
        self._signing = signing
        self._ledger = ledger
        self._clock = clock
        self._signers = signers

    def pending(self) -> Iterable[Round]:
        """What a former process could not deliver."""
        return [round_of(notice) for notice in self._ledger.notices() if not notice.taken]

    def address(self, task: Round) -> str | None:
        """The notify_url of the trade; None when there is none, or a reset has forgotten it."""
        trade = self._ledger.find(task.out_trade_no)
        known = trade is not None and self._ledger.find_notice(task.topic) is not None
        return (trade.notify_url or None) if trade is not None and known else None

    async def prepare(self, task: Round) -> list[tuple[str, Notice]]:
        """Sign the notifications of a round without sending them; all have one id, each try its own time."""
        loop = asyncio.get_running_loop()
        notice = self._ledger.find_notice(task.topic)
        assert notice is not None
        told = {**notice.parameters, "notify_id": notice.notify_id}
        told |= {name: str(value) for name, value in task.overrides.items()}
        prepared = []
        for kind in task.kinds[:ROUND_KINDS_MAX]:
            now_s, current = self._clock.real_s(), self._signing.current
            made = await loop.run_in_executor(
                self._signers, sign_notice, self._signing.keys, current, now_s, told, kind
            )
            prepared.append((kind, made))
        return prepared

    def taken(self, status: int, body: bytes) -> bool:
        """Only these seven characters acknowledge."""
        return status == 200 and body == SUCCESS

    def delivered(self, task: Round) -> None:
        """Keep in the ledger that a round was taken."""
        notice = self._ledger.find_notice(task.topic)
        if notice is not None:
            self._ledger.notice_taken(notice)


def round_of(notice: Notification) -> Round:
    """The round that brings a notification."""
    return Round(out_trade_no=notice.out_trade_no, refund=notice.out_request_no, topic=notice.notify_id)
