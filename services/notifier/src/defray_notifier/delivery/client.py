"""The HTTP client towards merchants' endpoints: one session, kept connections, and a limit on everything."""

import asyncio
import ssl
import time
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Final

import aiohttp
from yarl import URL

from defray_notifier.delivery.address_guard import AddressRefused, Guard, GuardedResolver

TOTAL_S: Final = 15.0
REPLY_BYTES_MAX: Final = 64 * 1024
_CONNECT_S: Final = 5.0
_REPLY_S: Final = 5.0
_KEPT_BYTES: Final = 2048
_KEEP_ALIVE_S: Final = 30.0
_HEADERS: Final = {
    "Content-Type": "application/json",
    "User-Agent": "Defray-Webhooks/1",
    # A reply is kept as it comes and never inflated.
    "Accept-Encoding": "identity",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Answer:
    """What came back; without a status, `error` is one of a few stable words. `reply` is its first 2 kB."""

    status: int | None
    error: str | None
    retry_after: str | None
    reply: bytes
    duration_ms: int


class WebhookClient:
    """Posts to checked addresses; follows no redirect, keeps no cookie, reads no proxy settings."""

    def __init__(self, session: aiohttp.ClientSession, guard: Guard) -> None:
        self._session, self._guard = session, guard

    @classmethod
    @asynccontextmanager
    async def open(
        cls, guard: Guard, *, tls: ssl.SSLContext | None = None, total_s: float = TOTAL_S
    ) -> "AsyncIterator[WebhookClient]":
        """A client until the end of the block. `tls` replaces the system's trust, for tests."""
        connector = aiohttp.TCPConnector(
            # Who calls bounds what is in flight; a queue in here would eat into deadlines.
            limit=0,
            resolver=GuardedResolver(guard),
            use_dns_cache=False,
            socket_factory=guard.open_socket,
            keepalive_timeout=_KEEP_ALIVE_S,
            ssl=tls or True,
        )
        async with aiohttp.ClientSession(
            connector=connector,
            timeout=aiohttp.ClientTimeout(total=total_s, sock_connect=_CONNECT_S),
            cookie_jar=aiohttp.DummyCookieJar(),
            headers=_HEADERS,
            auto_decompress=False,
            trust_env=False,
            raise_for_status=False,
        ) as session:
            yield cls(session, guard)

    async def post(self, url: str, headers: Mapping[str, str], body: bytes) -> Answer:
        """One attempt. Never raises for what the other side, the network or the address does."""
        started = time.monotonic()
        try:
            self._guard.check_url(url)
            async with self._session.post(
                URL(url, encoded=True), data=body, headers=headers, allow_redirects=False
            ) as response:
                reply = await _read(response)
                return Answer(
                    status=response.status,
                    error=None,
                    retry_after=response.headers.get("Retry-After"),
                    reply=reply,
                    duration_ms=_ms_since(started),
                )
        except (AddressRefused, aiohttp.ClientError, TimeoutError, OSError, ValueError) as error:
            return Answer(status=None, error=_word(error), retry_after=None, reply=b"", duration_ms=_ms_since(started))


async def _read(response: aiohttp.ClientResponse) -> bytes:
    """The beginning of the reply. The status has decided already, so a reply that drips or breaks off is let go."""
    kept, size = b"", 0
    try:
        async with asyncio.timeout(_REPLY_S):
            while size <= REPLY_BYTES_MAX:
                chunk = await response.content.readany()
                if not chunk:
                    return kept
                kept, size = kept + chunk[: _KEPT_BYTES - len(kept)], size + len(chunk)
    except (aiohttp.ClientError, TimeoutError, OSError, ValueError):
        pass
    response.close()
    return kept


def _word(error: Exception) -> str:
    match error:
        case AddressRefused():
            return "address_refused"
        case aiohttp.ClientConnectorDNSError():
            return "dns"
        case aiohttp.ClientConnectorCertificateError() | aiohttp.ClientSSLError() | ssl.SSLError():
            return "tls"
        case TimeoutError():
            return "timeout"
        case aiohttp.ClientConnectorError():
            return "connect"
        case aiohttp.ServerDisconnectedError() | aiohttp.ClientOSError() | ConnectionError():
            return "disconnected"
        case _:
            return "protocol"


def _ms_since(started: float) -> int:
    return int((time.monotonic() - started) * 1000)
