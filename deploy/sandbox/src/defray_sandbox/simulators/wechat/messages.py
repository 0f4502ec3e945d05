"""Which key signs what, and the callbacks of this channel: the courier brings them, this makes them."""

import asyncio
import random
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import Executor

from defray_sandbox.simulators.clock import ChannelClock
from defray_sandbox.simulators.courier import ROUND_KINDS_MAX, Notice, Round
from defray_sandbox.simulators.wechat.errors import ChannelError, Code
from defray_sandbox.simulators.wechat.keys import ChannelKeys, PlatformKey
from defray_sandbox.simulators.wechat.ledger import Ledger
from defray_sandbox.simulators.wechat.notices import CallbackKind, refund_body, sign_notice, success_body

# Seconds after each refused or lost callback, as the channel publishes them (sum 24 h 4 min).
SCHEDULE_S = (15, 15, 30, 180, 600, 1200, 1800, 1800, 1800, 3600, 10800, 10800, 10800, 21600, 21600)
_SEED = 20_260_101


class SigningKeys:
    """Which of the channel's keys is in use: `public_key_percent` of callbacks are signed in public-key mode.

    0 is certificate mode, 100 is public-key mode, between them the migration from one to the other is under way.
    """

    def __init__(self, keys: ChannelKeys) -> None:
        self.keys = keys
        self.public_key_percent = 100
        self.generation = 0
        self.certificate = 0
        self.published = 1
        # A merchant's certificate mode is told by the share of callbacks that surprises it, so the share must repeat.
        self._dice = random.Random(_SEED)  # noqa: S311

    @property
    def has_certificates(self) -> bool:
        """Whether this channel can do certificate mode at all."""
        return bool(self.keys.certificates)

    def of_callback(self) -> tuple[PlatformKey, PlatformKey]:
        """The key for the next callback, and the one of the other generation."""
        if self._dice.random() * 100 < self.public_key_percent:
            return self.keys.generations[self.generation], self.keys.generations[-1]
        return self.keys.certificates[self.certificate], self.keys.certificates[-1]

    def of_reply(self, serial: str | None) -> PlatformKey:
        """The key that a request chose for its reply. Raises ChannelError when there is no such key."""
        if serial is None:
            if self.public_key_percent:
                raise ChannelError(Code.PARAM_ERROR, "Wechatpay-Serial is missing", field="Wechatpay-Serial",
                                   location="header")  # fmt: skip
            return self.keys.certificates[self.certificate]
        for platform in (*self.keys.generations, *self.published_certificates()):
            if platform.serial == serial:
                return platform
        raise ChannelError(Code.RESOURCE_NOT_EXISTS, "no such platform key", field="Wechatpay-Serial",
                           location="header")  # fmt: skip

    def fallback(self, serial: str | None) -> PlatformKey:
        """The key for the reply to a request that chose none, or one that is not there."""
        try:
            return self.of_reply(serial)
        except ChannelError:
            certificates = not self.public_key_percent
            return self.keys.certificates[self.certificate] if certificates else self.keys.generations[-1]

    def published_certificates(self) -> tuple[PlatformKey, ...]:
        """The certificates that GET /v3/certificates tells."""
        return self.keys.certificates[: self.published]


class WechatMessages:
    """The callbacks of orders and refunds."""

    schedule_s: Sequence[float] = SCHEDULE_S
    answer_within_s = 5.0
    true_kinds: frozenset[str] = frozenset({CallbackKind.GENUINE, CallbackKind.SECOND_GENERATION})

    def __init__(self, *, signing: SigningKeys, ledger: Ledger, clock: ChannelClock, signers: Executor) -> None:
        self._signing = signing
        self._ledger = ledger
        self._clock = clock
        self._signers = signers

    def pending(self) -> Iterable[Round]:
        """What a former process could not deliver."""
        return list(self._undelivered())

    def address(self, task: Round) -> str | None:
        """The notify_url of the order or the refund; None when there is none."""
        held = self._ledger.find_refund(task.refund) if task.refund else self._ledger.find(task.out_trade_no)
        # An order paid by code has no callback, and a reset may have forgotten this one.
        return (held.notify_url or None) if held is not None else None

    async def prepare(self, task: Round) -> list[tuple[str, Notice]]:
        """Seal and sign the callbacks of a round without sending them.

        Kinds that are signed alike have the same body, as true duplicates have.
        """
        loop = asyncio.get_running_loop()
        genuine_body = self._body(task, CallbackKind.GENUINE)
        prepared = []
        for kind in task.kinds[:ROUND_KINDS_MAX]:
            body = self._body(task, kind) if kind == CallbackKind.WRONG_APIV3_KEY else genuine_body
            platform, second = self._signing.of_callback()
            now_s = self._clock.real_s()
            notice = await loop.run_in_executor(
                self._signers, sign_notice, self._signing.keys, platform, second, now_s, body, kind
            )
            prepared.append((kind, notice))
        return prepared

    def taken(self, status: int, body: bytes) -> bool:
        """200 and 204 acknowledge, whatever the body says."""
        del body
        return status in (200, 204)

    def delivered(self, task: Round) -> None:
        """Keep in the ledger that a round was taken."""
        if task.refund:
            refund = self._ledger.find_refund(task.refund)
            if refund is not None:
                self._ledger.refund_notified(refund, task.topic)
        else:
            order = self._ledger.find(task.out_trade_no)
            if order is not None:
                self._ledger.notified(order)

    def _undelivered(self) -> Iterator[Round]:
        for order in self._ledger:
            if order.paid_at_s and order.notify_url and not order.notified:
                yield Round(out_trade_no=order.out_trade_no)
        for refund in self._ledger.refunds():
            if refund.event_id and refund.notify_url and not refund.notified:
                yield Round(out_trade_no=refund.out_trade_no, refund=refund.out_refund_no, topic=refund.event_id)

    def _body(self, task: Round, kind: str) -> bytes:
        order = self._ledger.find(task.out_trade_no)
        assert order is not None
        if not task.refund:
            return success_body(self._signing.keys, order, task.overrides, kind)
        refund = self._ledger.find_refund(task.refund)
        assert refund is not None
        return refund_body(self._signing.keys, refund, order, task.overrides, kind)
