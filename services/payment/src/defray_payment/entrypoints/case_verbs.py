"""The operators' verb `cases`: list, show, claim, note and resolve cases from a shell."""

from __future__ import annotations

import argparse
import sys
from typing import Final

import msgspec

from defray_kernel.problems import Problem
from defray_payment.commands.claim_case import ClaimCase
from defray_payment.commands.note_case import NoteCase
from defray_payment.commands.resolve_case import ResolveCase
from defray_payment.entrypoints.operators import CaseDesk, read_case_id

NAME: Final = "cases"
_REFUSED: Final = 1
_TEXT_MAX: Final = {"note": 2000, "resolve": 500}


def declare(parser: argparse.ArgumentParser) -> None:
    """The acts and their arguments; whoever can start a process here is an operator."""
    acts = parser.add_subparsers(dest="act", required=True)
    listing = acts.add_parser("list")
    for name in ("state", "reason", "owner", "order-id", "payment-id", "after", "limit"):
        listing.add_argument(f"--{name}")
    for name in ("show", "claim", "note", "resolve"):
        act = acts.add_parser(name)
        act.add_argument("case_id")
        if name in _TEXT_MAX:
            act.add_argument("text")
        if name == "claim":
            act.add_argument("--take-over", action="store_true")
        if name != "show":
            act.add_argument("--actor", required=True)


async def run(desk: CaseDesk, arguments: argparse.Namespace) -> int:
    """Do one act and write its answer as JSON lines; 1 when it is refused, with the reason on standard error."""
    try:
        await _act(desk, arguments)
    except Problem as problem:
        sys.stderr.write(f"refused: {problem.code} {problem.field or ''}\n")
        return _REFUSED
    return 0


async def _act(desk: CaseDesk, arguments: argparse.Namespace) -> None:
    if arguments.act == "list":
        names = ("state", "reason", "owner", "order_id", "payment_id", "after", "limit")
        given = {name: getattr(arguments, name) for name in names if getattr(arguments, name) is not None}
        for case in (await desk.page(given)).data:
            _write(case)
        return
    case_id = read_case_id(arguments.case_id)
    if arguments.act in _TEXT_MAX and not 0 < len(arguments.text) <= _TEXT_MAX[arguments.act]:
        raise Problem("invalid_field", field="text")
    match arguments.act:
        case "show":
            pass
        case "claim":
            await desk.claim(ClaimCase(case_id=case_id, actor=arguments.actor, take_over=arguments.take_over))
        case "note":
            await desk.note(NoteCase(case_id=case_id, actor=arguments.actor, text=arguments.text))
        case _:
            await desk.resolve(ResolveCase(case_id=case_id, actor=arguments.actor, resolution=arguments.text))
    _write(await desk.show(case_id))


def _write(answer: object) -> None:
    sys.stdout.write(msgspec.json.encode(answer).decode() + "\n")
