"""Speaks to the services through their public and internal doors, as merchants, payers and operators do."""

import asyncio
import secrets
import time
from collections.abc import Awaitable, Callable, Mapping
from contextlib import AbstractAsyncContextManager
from typing import Any, Self, TypeVar

import aiohttp

from defray_sandbox.stack.errors import StackError

_TIMEOUT_S = 15.0
_POLL_S = 0.05

Json = dict[str, Any]
T = TypeVar("T")


class Doors(AbstractAsyncContextManager["Doors"]):
    """One HTTP session; every method raises `StackError` when the answer is not one of those expected."""

    def __init__(self) -> None:
        self._session: aiohttp.ClientSession | None = None

    async def __aenter__(self) -> Self:
        self._session = aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=_TIMEOUT_S), trust_env=False)
        return self

    async def __aexit__(self, *_: object) -> None:
        assert self._session is not None
        await self._session.close()

    async def get(self, url: str, *, bearer: str | None = None, expect: tuple[int, ...] = (200,)) -> Json:
        """Return the JSON found at `url`."""
        return await self._ask("GET", url, bearer=bearer, expect=expect)

    async def post(
        self, url: str, body: Mapping[str, object] | None = None, *, bearer: str | None = None,
        idempotency_key: str | None = None, expect: tuple[int, ...] = (200, 201, 202),
    ) -> Json:  # fmt: skip
        """Post `body` and return the JSON of the answer; `idempotency_key` makes the same post twice one."""
        return await self._ask("POST", url, bearer=bearer, expect=expect, body=body or {}, key=idempotency_key)

    async def delete(self, url: str, *, bearer: str) -> None:
        """Delete what is at `url`."""
        await self._ask("DELETE", url, bearer=bearer, expect=(200, 204))

    async def _ask(
        self, method: str, url: str, *, bearer: str | None, expect: tuple[int, ...],
        body: Mapping[str, object] | None = None, key: str | None = None,
    ) -> Json:  # fmt: skip
        assert self._session is not None
        headers = {"Authorization": f"Bearer {bearer}"} if bearer else {}
        if key:
            headers["Idempotency-Key"] = key
        try:
            async with self._session.request(method, url, json=body, headers=headers) as answer:
                if answer.status in expect:
                    found: Json = await answer.json(content_type=None) or {}
                    return found
                text = (await answer.text())[:1000]
        except (aiohttp.ClientError, TimeoutError) as error:
            message = f"{method} {url}: no answer ({type(error).__name__})"
            raise StackError(message, "look at the log of the service that listens there") from error
        message = f"{method} {url}: {answer.status} {text}"
        raise StackError(message, "look at the log of the service that answered")


def new_key() -> str:
    """Return a fresh Idempotency-Key."""
    return secrets.token_hex(16)


async def eventually(what: str, probe: Callable[[], Awaitable[T | None]], *, timeout_s: float) -> T:
    """Ask `probe` until it returns something; raises `StackError` saying what was waited for."""
    deadline = time.monotonic() + timeout_s
    while True:
        found = await probe()
        if found is not None:
            return found
        if time.monotonic() > deadline:
            message = f"waited {timeout_s:.0f} s for {what}"
            raise StackError(message, "look at the services' logs")
        await asyncio.sleep(_POLL_S)
