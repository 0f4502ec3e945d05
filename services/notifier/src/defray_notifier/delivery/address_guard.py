"""The guard in front of every outgoing call: which addresses may be spoken to, checked where the connection is made."""

import asyncio
import functools
import ipaddress
import re
import socket
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from typing import Any, Final, TypeAlias
from urllib.parse import urlsplit

from aiohttp.abc import AbstractResolver, ResolveResult

Address: TypeAlias = ipaddress.IPv4Address | ipaddress.IPv6Address
Resolve: TypeAlias = Callable[[str, int], Awaitable[Sequence[str]]]
"""The addresses of a host as text. Raises OSError when it has none."""

URL_CHARACTERS_MAX: Final = 2048
_RESOLVE_S: Final = 5.0
_SHAPES_CACHED_MAX: Final = 10_000
_HOST: Final = re.compile(r"(?=.{4,253}\Z)(?:[a-z0-9](?:[a-z0-9-]{0,61}[a-z0-9])?\.)+[a-z][a-z0-9-]{0,61}[a-z0-9]\Z")
_PLAIN: Final = re.compile(r"[!-~]+\Z")

# The standard library calls some of these global (Python 3.11 to 3.13 differ), and multicast too.
_DENIED: Final = tuple(
    ipaddress.ip_network(text)
    for text in (
        "0.0.0.0/8", "100.64.0.0/10", "169.254.0.0/16", "192.0.0.0/24", "192.88.99.0/24", "198.18.0.0/15", "240.0.0.0/4",
        "::/96", "::ffff:0:0:0/96", "64:ff9b::/96", "64:ff9b:1::/48", "100::/64", "2001::/23", "2001:db8::/32", "2002::/16", "5f00::/16",
        "fc00::/7", "fe80::/10", "fec0::/10", "ff00::/8",
    )
)  # fmt: skip


class AddressRefused(Exception):
    """This URL or the address behind it must not be called; the reason is ours and holds no input."""

    def __init__(self, reason: str) -> None:
        super().__init__(reason)
        self.reason = reason


@dataclass(frozen=True, slots=True, kw_only=True)
class Guard:
    """`allow_private` opens http, other ports and private addresses, for a sandbox; never in production."""

    allow_private: bool = False
    resolve: Resolve | None = None

    def check_url(self, url: str) -> None:
        """Refuse what is no plain https URL of a named host on port 443. Raises AddressRefused."""
        refused = _refused_shape(url, allow_private=self.allow_private)
        if refused is not None:
            raise AddressRefused(refused)

    async def check(self, url: str) -> None:
        """The same, and every address that the host has now. Raises AddressRefused, also for a host without one."""
        self.check_url(url)
        parts = urlsplit(url)
        assert parts.hostname is not None
        try:
            async with asyncio.timeout(_RESOLVE_S):
                await self.addresses(parts.hostname, parts.port or 443)
        except (OSError, UnicodeError):
            raise AddressRefused("does not resolve to an address") from None

    async def addresses(self, host: str, port: int) -> list[str]:
        """All addresses of a host; if one of them is not public, none is used. Raises AddressRefused, OSError."""
        found = list(await (self.resolve or _resolve)(host, port))
        for address in found:
            self.check_address(address)
        if not found:
            raise OSError("no address")
        return found

    def check_address(self, text: str) -> None:
        """Refuse an address that is not public. Raises AddressRefused."""
        if not self.allow_private and not is_public(text):
            raise AddressRefused("has an address that is not public")

    def open_socket(self, info: tuple[Any, ...]) -> socket.socket:
        """Make the socket for one address; the last look, at exactly what is about to be connected to."""
        family, kind, protocol, _, target = info
        self.check_address(target[0])
        return socket.socket(family=family, type=kind, proto=protocol)


class GuardedResolver(AbstractResolver):
    """Gives the HTTP client only addresses that were checked; TLS still asks for the host's own name."""

    def __init__(self, guard: Guard) -> None:
        self._guard = guard

    async def resolve(
        self, host: str, port: int = 0, family: socket.AddressFamily = socket.AF_UNSPEC
    ) -> list[ResolveResult]:
        """Resolve, check all, return all."""
        del family
        return [
            ResolveResult(
                hostname=host,
                host=address,
                port=port,
                family=socket.AF_INET6 if ":" in address else socket.AF_INET,
                proto=socket.IPPROTO_TCP,
                flags=socket.AI_NUMERICHOST,
            )
            for address in await self._guard.addresses(host, port)
        ]

    async def close(self) -> None:
        """Nothing is held."""


def is_public(text: str) -> bool:
    """Whether an address is one of the public internet, whatever it is wrapped in."""
    try:
        address: Address = ipaddress.ip_address(text.partition("%")[0])
    except ValueError:
        return False
    if isinstance(address, ipaddress.IPv6Address) and address.ipv4_mapped is not None:
        address = address.ipv4_mapped
    if any(address in network for network in _DENIED if network.version == address.version):
        return False
    return address.is_global and not address.is_multicast and not address.is_reserved and not address.is_unspecified


@functools.lru_cache(maxsize=_SHAPES_CACHED_MAX)
def _refused_shape(url: str, *, allow_private: bool) -> str | None:
    """Why a URL is refused for how it is written; None when it is not. Cached: it is asked at every attempt."""
    if len(url) > URL_CHARACTERS_MAX or not _PLAIN.match(url) or "\\" in url:
        return "must be plain ASCII of at most 2048 characters"
    try:
        parts = urlsplit(url)
        port = parts.port
    except ValueError:
        return "is not a URL"
    if parts.username is not None or parts.password is not None or parts.fragment:
        return "must hold neither user information nor a fragment"
    if allow_private:
        return None if parts.scheme in {"http", "https"} and parts.hostname else "must be an http or https URL"
    if parts.scheme != "https" or port not in {None, 443}:
        return "must be https on port 443"
    if parts.netloc.partition(":")[0] != parts.hostname or not _HOST.match(parts.hostname):
        return "must name a host in lower case, not an address"
    return None


async def _resolve(host: str, port: int) -> list[str]:
    found = await asyncio.get_running_loop().getaddrinfo(host, port, type=socket.SOCK_STREAM)
    return list(dict.fromkeys(str(info[4][0]) for info in found))
