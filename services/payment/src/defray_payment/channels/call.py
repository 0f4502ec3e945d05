"""One HTTP exchange with a channel: one deadline, bounded reply, no retry; what went wrong comes back as a value."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

import aiohttp

from defray_kernel import metrics
from defray_payment.channels.spi import PROTOCOL, TIMEOUT, UNREACHED, Trouble

REPLY_BYTES_MAX: Final = 64 * 1024
_CONNECT_TIMEOUT_S: Final = 2.0
_RETRY_AFTER_S_MAX: Final = 3600.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Reply:
    """A reply as it came; header names in lower case. It proves nothing before its signature is checked."""

    status: int
    headers: Mapping[str, str]
    body: bytes

    @property
    def retry_after_s(self) -> float | None:
        """What the channel asked to wait, at most an hour."""
        text = self.headers.get("retry-after", "")
        return min(float(text), _RETRY_AFTER_S_MAX) if text.isascii() and text.isdigit() and len(text) < 9 else None


def timeout_of(seconds: float) -> aiohttp.ClientTimeout:
    """The deadline of one call; connecting gets at most two seconds of it."""
    return aiohttp.ClientTimeout(total=seconds, sock_connect=min(_CONNECT_TIMEOUT_S, seconds))


async def exchange(
    session: aiohttp.ClientSession,
    method: str,
    url: str,
    *,
    channel: str,
    headers: Mapping[str, str],
    data: bytes | None,
    deadline: aiohttp.ClientTimeout,
) -> Reply | Trouble:
    """One request. Nothing left this process: UNREACHED. Anything after that which is not a reply: TIMEOUT."""
    started = time.monotonic()
    result = await _send(session, method, url, headers=headers, data=data, deadline=deadline)
    metrics.observe("channel_seconds", time.monotonic() - started, channel=channel)
    outcome = result.kind.value if isinstance(result, Trouble) else str(result.status)
    metrics.count("channel_calls", channel=channel, outcome=outcome)
    return result


async def _send(
    session: aiohttp.ClientSession,
    method: str,
    url: str,
    *,
    headers: Mapping[str, str],
    data: bytes | None,
    deadline: aiohttp.ClientTimeout,
) -> Reply | Trouble:
    try:
        async with session.request(
            method, url, data=data, headers=headers, timeout=deadline, allow_redirects=False
        ) as response:
            body = await _read(response)
    except (aiohttp.ClientConnectorError, aiohttp.ConnectionTimeoutError, aiohttp.InvalidURL):
        return UNREACHED
    except (aiohttp.ClientError, TimeoutError, OSError):
        return TIMEOUT
    if body is None:
        return PROTOCOL
    told = {name.lower(): value for name, value in response.headers.items()}
    return Reply(status=response.status, headers=told, body=body)


async def _read(response: aiohttp.ClientResponse) -> bytes | None:
    """The body up to the limit; None when there is more."""
    chunks: list[bytes] = []
    size = 0
    async for chunk in response.content.iter_any():
        size += len(chunk)
        if size > REPLY_BYTES_MAX:
            response.close()
            return None
        chunks.append(chunk)
    return b"".join(chunks)
