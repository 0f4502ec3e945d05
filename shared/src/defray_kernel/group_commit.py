"""Group commit: callers queue in memory, a free held connection takes all that waits, everyone is told after the commit."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from typing import Final, Generic, TypeAlias, TypeVar

from defray_kernel import rounds
from defray_kernel.clock import Clock
from defray_kernel.crash import crash_point
from defray_kernel.db import CommitUnknown, Connection, Database, ReadConn, WriteTx, backoff_s, begin, is_transient
from defray_kernel.errors import OutcomeUnknown, Overloaded, Unavailable

C = TypeVar("C")
O = TypeVar("O")  # noqa: E741 - outcome
Handler: TypeAlias = Callable[[Sequence[C], WriteTx, Clock], Awaitable[list[O]]]

_TRIES_MAX: Final = 6


@dataclass(slots=True, eq=False)
class _Waiting(Generic[C, O]):
    command: C
    answer: asyncio.Future[O]


class GroupCommit(Generic[C, O]):
    """Runs one command's batch handler for many concurrent callers, each round of a batch in a transaction of its own.

    `keys` names the serial keys of a command: no two commands of one round share one.
    `natural_key` says that running a command again finds its own first result (an idempotency key, a unique
    number, a compare-and-set); only then is work run again after the answer to a COMMIT was lost.
    `resolve` fills in ids that the serial keys need, for a whole batch by one look-up, before it is cut into rounds.
    """

    def __init__(  # noqa: PLR0913 - one place says all there is to say about a write edge
        self,
        name: str,
        database: Database,
        handle: Handler[C, O],
        clock: Clock,
        *,
        keys: Callable[[C], Sequence[str]],
        natural_key: bool,
        resolve: Callable[[Sequence[C], ReadConn], Awaitable[Sequence[C]]] | None = None,
        connections: int = 2,
        batch_size_max: int = 200,
        queue_max: int = 2_000,
        after_commit: Callable[[], None] | None = None,
    ) -> None:
        self.name = name
        self._database, self._handle, self._clock = database, handle, clock
        self._keys, self._natural_key, self._resolve = keys, natural_key, resolve
        self._connections, self._batch_size_max, self._queue_max = connections, batch_size_max, queue_max
        self._after_commit = after_commit
        self._queue: deque[_Waiting[C, O]] = deque()
        self._arrived = asyncio.Event()
        self._stopping = False

    @property
    def depth(self) -> int:
        """How many callers wait for a free connection."""
        return len(self._queue)

    async def submit(self, command: C) -> O:
        """Queue a command and wait for its outcome, which is told after the commit.

        Raises Overloaded (queue full, or stopping), Unavailable (nothing was done), OutcomeUnknown (COMMIT's answer
        was lost), or whatever the handler raised for this command alone.
        """
        if self._stopping or len(self._queue) >= self._queue_max:
            raise Overloaded(self.name)
        waiting: _Waiting[C, O] = _Waiting(command, asyncio.get_running_loop().create_future())
        self._queue.append(waiting)
        self._arrived.set()
        return await waiting.answer

    async def run(self) -> None:
        """Flush until stopped; every held connection takes what has gathered as soon as it is free."""
        async with asyncio.TaskGroup() as flushers:
            for _ in range(self._connections):
                flushers.create_task(_Flusher(self).run())

    async def stop(self) -> None:
        """Take no more commands; what is queued is still settled, then `run` returns."""
        self._stopping = True
        self._arrived.set()

    async def take(self) -> list[_Waiting[C, O]]:
        """The next batch, or an empty one when stopped and drained."""
        while not self._queue:
            if self._stopping:
                return []
            self._arrived.clear()
            await self._arrived.wait()
        size = min(len(self._queue), self._batch_size_max)
        return [self._queue.popleft() for _ in range(size)]

    def cut(self, batch: list[_Waiting[C, O]]) -> list[list[_Waiting[C, O]]]:
        """Rounds in which no two commands share a serial key."""
        return rounds.cut(batch, lambda waiting: self._keys(waiting.command))

    async def resolve(self, batch: list[_Waiting[C, O]], connection: Connection) -> None:
        """Fill in what the serial keys need."""
        if self._resolve is not None:
            resolved = await self._resolve([waiting.command for waiting in batch], ReadConn(connection))
            for waiting, command in zip(batch, resolved, strict=True):
                waiting.command = command

    async def apply(self, items: Sequence[_Waiting[C, O]], tx: WriteTx) -> list[O]:
        """Run the handler; it answers once per command."""
        outcomes = await self._handle([item.command for item in items], tx, self._clock)
        assert len(outcomes) == len(items)
        return outcomes

    def committed(self) -> None:
        """Tell whoever carries the outbox away that there may be something to carry."""
        if self._after_commit is not None:
            self._after_commit()

    @property
    def repeatable(self) -> bool:
        """Whether work may be run again although it may already have been done."""
        return self._natural_key


class _Flusher(Generic[C, O]):
    """One held connection and its loop."""

    def __init__(self, group: GroupCommit[C, O]) -> None:
        self._group = group
        self._connection: Connection | None = None

    async def run(self) -> None:
        try:
            while batch := await self._group.take():
                if await self._resolved(batch):
                    for items in self._group.cut(batch):
                        await self._settle(items)
        finally:
            if self._connection is not None:
                self._connection.terminate()

    async def _resolved(self, batch: list[_Waiting[C, O]]) -> bool:
        """Resolve ids, again on a fresh connection while the fault is transient; False when the callers were told."""
        for attempt in range(1, _TRIES_MAX + 1):
            try:
                await self._group.resolve(batch, await self._held())
            except Exception as error:  # noqa: BLE001 - the callers are told
                self._drop()
                if not is_transient(error):
                    _fail(batch, error)
                    return False
            else:
                return True
            await asyncio.sleep(backoff_s(attempt, base_s=0.05))
        _fail(batch, Unavailable(self._group.name))
        return False

    async def _settle(self, items: list[_Waiting[C, O]]) -> None:
        """Commit one round, or halve it until the item that fails stands alone and is told why."""
        try:
            outcomes = await self._commit(items)
        except (Unavailable, OutcomeUnknown) as error:
            _fail(items, error)
        except Exception as error:  # noqa: BLE001 - the caller of the one bad command is told
            if len(items) == 1:
                _fail(items, error)
                return
            middle = len(items) // 2
            await self._settle(items[:middle])
            await self._settle(items[middle:])
        else:
            self._group.committed()
            for item, outcome in zip(items, outcomes, strict=True):
                if not item.answer.done():
                    item.answer.set_result(outcome)

    async def _commit(self, items: list[_Waiting[C, O]]) -> list[O]:
        """One transaction, tried again on a fresh connection while the fault is transient."""
        maybe_done = False
        for attempt in range(1, _TRIES_MAX + 1):
            try:
                connection = await self._held()
                async with begin(connection) as tx:
                    outcomes = await self._group.apply(items, tx)
                    crash_point(f"{self._group.name}.before_commit")
                crash_point(f"{self._group.name}.after_commit")
            except CommitUnknown as error:
                self._drop()
                maybe_done = True
                if not self._group.repeatable:
                    raise OutcomeUnknown(self._group.name) from error
            except Exception as error:
                self._drop()
                if not is_transient(error):
                    raise
            else:
                return outcomes
            await asyncio.sleep(backoff_s(attempt, base_s=0.05))
        raise OutcomeUnknown(self._group.name) if maybe_done else Unavailable(self._group.name)

    async def _held(self) -> Connection:
        if self._connection is None or self._connection.is_closed():
            self._connection = await self._group._database.connect()  # noqa: SLF001 - one thing in two classes
        return self._connection

    def _drop(self) -> None:
        if self._connection is not None:
            self._connection.terminate()
            self._connection = None


def _fail(items: Sequence[_Waiting[C, O]], error: Exception) -> None:
    for item in items:
        if not item.answer.done():
            item.answer.set_exception(error)
