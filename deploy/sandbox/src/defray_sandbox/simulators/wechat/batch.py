"""Signed callbacks for many synthetic orders at once, ahead of a load test.

`python -m defray_sandbox.simulators.wechat.batch --help`; one JSON line a callback: {"headers": {...}, "body": "..."}.
A signature is valid for five minutes from its timestamp, so make them shortly before they are used.
"""

import argparse
import itertools
import json
import os
import secrets
from collections.abc import Iterable, Iterator
from concurrent.futures import Executor, ProcessPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from defray_sandbox.simulators.clock import ChannelClock
from defray_sandbox.simulators.wechat.keys import ChannelKeys, load
from defray_sandbox.simulators.wechat.ledger import Order, TradeState
from defray_sandbox.simulators.wechat.notices import CallbackKind, sign_notice, success_body

BATCH_MAX = 200_000
CHUNK = 500


@dataclass(frozen=True, slots=True, kw_only=True)
class Payment:
    """One synthetic payment; `total` in minor units."""

    out_trade_no: str
    total: int
    currency: str


@dataclass(frozen=True, slots=True, kw_only=True)
class BatchTerms:
    """What all callbacks of a batch share; times in unix seconds."""

    appid: str
    mchid: str
    signed_at_s: int
    paid_at_s: float


def series(prefix: str, count: int, total: int, currency: str) -> Iterator[Payment]:
    """Payments numbered prefix000000001, prefix000000002 and so on."""
    for number in range(1, count + 1):
        yield Payment(out_trade_no=f"{prefix}{number:09d}", total=total, currency=currency)


def lines(executor: Executor, keys: ChannelKeys, terms: BatchTerms, payments: Iterable[Payment]) -> Iterator[bytes]:
    """Callbacks as JSON lines, chunk by chunk, for an executor whose workers share this memory (threads)."""
    yield from executor.map(_chunk, itertools.repeat(keys), itertools.repeat(terms), chunked(payments))


def chunked(payments: Iterable[Payment]) -> Iterator[tuple[Payment, ...]]:
    """Groups of CHUNK payments."""
    remaining = iter(payments)
    while group := tuple(itertools.islice(remaining, CHUNK)):
        yield group


def _chunk(keys: ChannelKeys, terms: BatchTerms, payments: tuple[Payment, ...]) -> bytes:
    made = bytearray()
    for payment in payments:
        number = secrets.randbelow(10**24)
        order = Order(
            out_trade_no=payment.out_trade_no, total=payment.total, currency=payment.currency, notify_url="",
            attach="", created_at_s=terms.paid_at_s, expires_at_s=None,
            fields={"appid": terms.appid, "mchid": terms.mchid}, state=TradeState.SUCCESS,
            transaction_id=f"4200{number:024d}", event_id=f"EV-{number:024d}", openid="oBatch",
            paid_at_s=terms.paid_at_s, paid_total=payment.total, paid_currency=payment.currency,
        )  # fmt: skip
        body = success_body(keys, order, {}, CallbackKind.GENUINE)
        first, last = keys.generations[0], keys.generations[-1]
        notice = sign_notice(keys, first, last, terms.signed_at_s, body, CallbackKind.GENUINE)
        line = {"out_trade_no": payment.out_trade_no, "headers": notice.headers, "body": notice.body.decode()}
        made += json.dumps(line, ensure_ascii=False, separators=(",", ":")).encode() + b"\n"
    return bytes(made)


_worker_keys: list[ChannelKeys] = []


def _load_worker_keys(folder: Path) -> None:
    # Key objects cannot be sent to another process: each worker parses them once.
    _worker_keys[:] = [load(folder)]


def _worker_chunk(terms: BatchTerms, payments: tuple[Payment, ...]) -> bytes:
    return _chunk(_worker_keys[0], terms, payments)


def write(folder: Path, out: Path, terms: BatchTerms, payments: Iterable[Payment], processes: int) -> int:
    """Make the batch on several processes and write it to a file; returns how many bytes."""
    written = 0
    with (
        ProcessPoolExecutor(processes, initializer=_load_worker_keys, initargs=(folder,)) as pool,
        out.open("wb") as file,
    ):
        for chunk in pool.map(_worker_chunk, itertools.repeat(terms), chunked(payments)):
            written += file.write(chunk)
    return written


def _main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--keys-dir", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--count", type=int, required=True)
    parser.add_argument("--prefix", default="BENCH")
    parser.add_argument("--total", type=int, default=100, help="minor units of each payment")
    parser.add_argument("--numbers-file", type=Path, help="out_trade_no, one a line, instead of the series")
    parser.add_argument("--mchid", required=True)
    parser.add_argument("--appid", required=True)
    parser.add_argument("--ahead-s", type=int, default=0, help="stamp this far in the future, up to 280 s")
    parser.add_argument("--processes", type=int, default=os.cpu_count() or 1)
    options = parser.parse_args()
    if not 0 < options.count <= BATCH_MAX:
        parser.error(f"--count must be 1 to {BATCH_MAX}")
    clock = ChannelClock()
    terms = BatchTerms(
        appid=options.appid,
        mchid=options.mchid,
        signed_at_s=clock.real_s() + options.ahead_s,
        paid_at_s=clock.business_s(),
    )
    payments = series(options.prefix, options.count, options.total, "CNY")
    if options.numbers_file is not None:
        numbers = options.numbers_file.read_text(encoding="ascii").split()[: options.count]
        payments = (Payment(out_trade_no=number, total=options.total, currency="CNY") for number in numbers)
    write(options.keys_dir, options.out, terms, payments, options.processes)


if __name__ == "__main__":
    _main()
