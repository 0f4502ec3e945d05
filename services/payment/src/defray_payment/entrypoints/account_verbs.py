"""The operators' verb `channel-account`: list, add, rotate and retire accounts from a shell; keys come from files."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import Final
from uuid import UUID

import msgspec
from pydantic import ValidationError

from defray_kernel.problems import Problem
from defray_payment.entrypoints.accounts import AccountDesk, AccountRequest, KeysRequest, VerifyKey

NAME: Final = "channel-account"
_REFUSED: Final = 1


def declare(parser: argparse.ArgumentParser) -> None:
    """The acts and their arguments; whoever can start a process here is an operator."""
    acts = parser.add_subparsers(dest="act", required=True)
    acts.add_parser("list")
    add = acts.add_parser("add")
    add.add_argument("channel", help="wechat or alipay")
    add.add_argument("merchant_ref", help="mchid or seller id")
    add.add_argument("app_ref", help="appid")
    add.add_argument("base_url", help="WeChat's host or Alipay's gateway")
    add.add_argument("--merchant", help="whose account it is (mer_…); without it, the platform's")
    rotate = acts.add_parser("rotate")
    retire = acts.add_parser("retire")
    for act in (rotate, retire):
        act.add_argument("account_id", type=UUID)
    for act in (add, rotate):
        act.add_argument("--private-key", type=Path, required=True)
        act.add_argument("--verify-keys", type=Path, required=True, help="a folder of <serial or name>.pem")
        act.add_argument("--serial", help="WeChat: serial of our certificate")
        act.add_argument("--seal-key", type=Path, help="WeChat: the APIv3 key")
        act.add_argument("--certificate", type=Path, help="Alipay, certificate mode: our certificate")
        act.add_argument("--root", type=Path, help="Alipay, certificate mode: the root bundle")
    for act in (add, rotate, retire):
        act.add_argument("--actor", required=True)


async def run(desk: AccountDesk, arguments: argparse.Namespace) -> int:
    """Do one act and write its answer as JSON lines; 1 when it is refused, with the reason on standard error."""
    try:
        match arguments.act:
            case "list":
                for account in await desk.list_all():
                    _write(account)
            case "add":
                _write({"account_id": str(await desk.add(_account(arguments), arguments.actor))})
            case "rotate":
                _write(await desk.rotate(arguments.account_id, _keys(arguments), arguments.actor))
            case _:
                _write(await desk.retire(arguments.account_id, arguments.actor))
    except Problem as problem:
        sys.stderr.write(f"refused: {problem.code} {problem.field or ''} {problem.detail or ''}\n")
        return _REFUSED
    except ValidationError as error:
        names = {".".join(map(str, each["loc"])) for each in error.errors(include_input=False)}
        sys.stderr.write(f"refused: invalid {', '.join(sorted(names))}\n")
        return _REFUSED
    except (OSError, UnicodeDecodeError) as error:
        sys.stderr.write(f"refused: a key file cannot be read: {type(error).__name__}\n")
        return _REFUSED
    return 0


def _account(arguments: argparse.Namespace) -> AccountRequest:
    return AccountRequest(
        channel=arguments.channel,
        merchant_id=arguments.merchant,
        merchant_ref=arguments.merchant_ref,
        app_ref=arguments.app_ref,
        base_url=arguments.base_url,
        keys=_keys(arguments),
    )


def _keys(arguments: argparse.Namespace) -> KeysRequest:
    folder: Path = arguments.verify_keys
    return KeysRequest(
        private_key=arguments.private_key.read_text("utf-8"),
        verify_keys=[VerifyKey(name=path.stem, pem=path.read_text("utf-8")) for path in sorted(folder.glob("*.pem"))],
        serial=arguments.serial,
        seal_key=None if arguments.seal_key is None else arguments.seal_key.read_text("utf-8").strip(),
        certificate=None if arguments.certificate is None else arguments.certificate.read_text("utf-8"),
        root=None if arguments.root is None else arguments.root.read_text("utf-8"),
    )


def _write(answer: object) -> None:
    sys.stdout.write(msgspec.json.encode(answer).decode() + "\n")
