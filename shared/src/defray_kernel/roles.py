"""The one entry of every service's image: http | consume | relay | timers | migrate | all, and the operator's verbs."""

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from defray_kernel.clock import Clock
from defray_kernel.consumer import Consumer
from defray_kernel.db import Database
from defray_kernel.group_commit import GroupCommit
from defray_kernel.http import Edge
from defray_kernel.merchants import MerchantDirectory
from defray_kernel.relay import Relay
from defray_kernel.settings import ServiceSettings
from defray_kernel.timers import Timer


class Runs(Protocol):
    """A part that works until `stopping` is set and then returns; returning earlier or raising takes the process down."""

    async def run(self, stopping: asyncio.Event) -> None: ...


@dataclass(frozen=True, slots=True, kw_only=True)
class Task:
    """A part beside the usual ones (wake-up poker, channel poller): its name, the role it belongs to and its loop."""

    name: str
    role: str  # http | consume | relay | timers
    run: Callable[[asyncio.Event], Awaitable[None]]


@dataclass(frozen=True, slots=True, kw_only=True)
class Check:
    """One line of /readyz: None when fine, else what is missing in a few words. Must answer within a second."""

    name: str
    ask: Callable[[], Awaitable[str | None]]


@dataclass(frozen=True, slots=True, kw_only=True)
class Wiring:
    """The built object graph of one service; each role runs its part of it."""

    database: Database
    clock: Clock
    public: Edge
    internal: Edge  # operator API and sandbox controls; /livez /readyz /metrics and the parked-keys API are added by the kernel
    group_commits: Sequence[GroupCommit[Any, Any]] = ()  # role http
    directory: MerchantDirectory | None = None  # role http: re-read, and ready before requests are let in
    consumers: Sequence[Consumer] = ()  # role consume
    relay: Relay | None = None  # role relay
    timers: Sequence[Timer] = ()  # role timers
    tasks: Sequence[Task] = ()
    checks: Sequence[Check] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class ServiceDefinition:
    """What makes a service; `name` is order | payment | settlement | notifier and gives the DEFRAY_<NAME>_ prefix."""

    name: str
    schema: str
    version: str
    settings_class: type[ServiceSettings]
    wire: Callable[[Any], AbstractAsyncContextManager[Wiring]]  # wire(settings); may raise while Postgres or Kafka are away: it is tried again
    migrations: Sequence[Path]  # in order: KERNEL_MIGRATIONS, MERCHANT_MIGRATIONS (where projected), the service's own


def main(service: ServiceDefinition, argv: Sequence[str]) -> int:
    """Run one role or verb and return the exit code: 0 done, 64 usage, 70 a part died, 75 retry me (supervisor), 78 configuration.

    `http | consume | relay | timers | all`, `migrate [--phase pre|post]`, `parked list|retry|skip …`, `republish …`, `openapi public|internal`.
    """
    raise NotImplementedError
