"""The operators' verb `audit`: note where the audit log stands, and verify it against such notes."""

from __future__ import annotations

import argparse
import asyncio
import sys
from pathlib import Path
from typing import Final

import msgspec
import structlog

from defray_kernel.db import Database, is_transient
from defray_kernel.timers import wait_for_stop
from defray_order.commands import verify_audit
from defray_order.commands.verify_audit import Anchor

NAME: Final = "audit"
EVERY_S: Final = 3600.0
_DAMAGED: Final = 1
_USAGE: Final = 64
_log = structlog.get_logger()


def declare(parser: argparse.ArgumentParser) -> None:
    """The arguments."""
    acts = parser.add_subparsers(dest="act", required=True)
    acts.add_parser(
        "anchor", help="print the last row's number and hash; keep it where the database's owner cannot write"
    )
    verify = acts.add_parser("verify", help="walk the whole chain; exit 1 when it is damaged")
    verify.add_argument("--anchors", type=Path, help="a file of such lines, one JSON object each")


async def run(database: Database, arguments: argparse.Namespace) -> int:
    """Do it and print one line of JSON."""
    if arguments.act == "anchor":
        last = await verify_audit.anchor(database)
        sys.stdout.write(msgspec.json.encode(last).decode() + "\n")
        return _DAMAGED if last is None else 0
    try:
        anchors = _anchors(arguments.anchors)
    except (OSError, msgspec.MsgspecError, UnicodeDecodeError) as error:
        sys.stderr.write(f"refused: the file of anchors cannot be read: {type(error).__name__}\n")
        return _USAGE
    verdict = await verify_audit.run(database, anchors)
    sys.stdout.write(msgspec.json.encode(verdict).decode() + "\n")
    return 0 if verdict.broken_at is None else _DAMAGED


async def keep_anchoring(database: Database, stopping: asyncio.Event) -> None:
    """Tell the log, which other hands keep, where the audit log stands: at start and every hour."""
    while not stopping.is_set():
        try:
            last = await verify_audit.anchor(database)
        except Exception as error:
            if not is_transient(error):
                raise
            _log.warning("audit_anchor_waits", error=type(error).__name__)
        else:
            _log.info("audit_anchor", seq=last and last.seq, sha256=last and last.hash)
        await wait_for_stop(stopping, EVERY_S)


def _anchors(file: Path | None) -> list[Anchor]:
    if file is None:
        return []
    lines = file.read_text("utf-8").splitlines()
    return [msgspec.json.decode(line, type=Anchor) for line in lines if line.strip()]
