"""The operators' verb `rotate-keys`: wrap everything with the current data key while the service goes on."""

from __future__ import annotations

import argparse
import sys
from typing import Final

import msgspec

from defray_kernel.clock import Clock
from defray_kernel.crypto import CannotOpen, Envelope
from defray_kernel.db import Database
from defray_order.commands import rotate_keys
from defray_order.commands.rotate_keys import BATCH_MAX, RotateKeys

NAME: Final = "rotate-keys"
_REFUSED: Final = 1
_LEFT: Final = 75  # EX_TEMPFAIL: run it again


def declare(parser: argparse.ArgumentParser) -> None:
    """The arguments."""
    parser.add_argument("--actor", required=True)
    parser.add_argument(
        "--batch", type=int, default=BATCH_MAX, choices=range(1, BATCH_MAX + 1), metavar=f"1…{BATCH_MAX}"
    )


async def run(database: Database, clock: Clock, envelope: Envelope, arguments: argparse.Namespace) -> int:
    """Rotate and say how much was done; 75 when something is left, 1 when a value's key is missing."""
    command = RotateKeys(actor=arguments.actor, batch_max=arguments.batch)
    try:
        rotated = await rotate_keys.run(command, database, clock, envelope)
    except CannotOpen:
        sys.stderr.write("refused: a key cannot be opened by any key of the ring; nothing of its batch changed\n")
        return _REFUSED
    sys.stdout.write(msgspec.json.encode(rotated).decode() + "\n")
    return _LEFT if rotated.left else 0
