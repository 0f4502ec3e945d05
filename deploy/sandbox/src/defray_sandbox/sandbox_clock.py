"""Moves the sandbox's business time forward, for the services and for the simulated channel alike."""

import re
from pathlib import Path

import aiohttp

from defray_kernel import clock
from defray_sandbox.stack.environment import Addresses
from defray_sandbox.stack.errors import StackError

_UNITS_S = {"s": 1, "m": 60, "h": 3600, "d": 86_400}


def parse_duration_s(text: str) -> int:
    """Return the seconds in a text like `45s`, `2h30m` or `1d`; raises `StackError` for anything else."""
    if not re.fullmatch(r"(\d{1,6}[smhd])+", text):
        message = f"{text!r} is not a duration"
        raise StackError(message, "write it like 45s, 90m, 2h30m or 1d")
    return sum(int(count) * _UNITS_S[unit] for count, unit in re.findall(r"(\d+)([smhd])", text))


async def advance(clock_file: Path, addresses: Addresses, by_s: int) -> int:
    """Move business time by `by_s` seconds; returns the whole offset in seconds.

    Services read the file within 0.2 s; the channel, which shares nothing with them, is told over its control port.
    """
    try:
        offset_s = clock.advance(clock_file, by_s)
    except ValueError as error:
        raise StackError(str(error), "say a shorter duration") from error
    await tell_channel(addresses, offset_s)
    return offset_s


async def tell_channel(addresses: Addresses, offset_s: int) -> None:
    """Give the simulated channels the offset; it never goes back."""
    timeout = aiohttp.ClientTimeout(total=5)
    async with aiohttp.ClientSession(timeout=timeout) as session:
        for name, ports in addresses.channels.items():
            url = f"{ports.internal_url}/control/clock"
            async with session.post(url, json={"offset_s": offset_s}) as got:
                if got.status != 200:
                    message = f"the channel {name} did not take the time: {got.status} {await got.text()}"
                    raise StackError(message, "look at the channel's log")
