"""The simulator is no bottleneck of a load test, and batches of callbacks are good ones."""

import asyncio
import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import aiohttp
import pytest

from defray_sandbox.simulators.process import APPID, MCHID, WechatSimulator
from tests.judges.run import ask

from .conftest import NATIVE, Merchant, Shop

pytestmark = pytest.mark.alone

_PAYMENTS = 1000
_CLIENTS = 32


def _cpu_s(pid: int) -> float:
    fields = Path(f"/proc/{pid}/stat").read_text(encoding="ascii").rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


async def test_auto_pay_costs_at_most_2_5_ms_of_cpu_a_payment(
    new_simulator: Callable[..., WechatSimulator], shop: Shop
) -> None:
    async with new_simulator("--auto-pay") as simulator, aiohttp.ClientSession(trust_env=False) as session:
        merchant = Merchant(simulator, session)
        numbers = iter(range(_PAYMENTS))

        async def client() -> None:
            for number in numbers:
                assert (
                    await merchant.call("POST", NATIVE, merchant.order(f"LOAD{number:06d}", shop.url))
                ).status == 200

        started_s = _cpu_s(simulator.pid)
        async with asyncio.TaskGroup() as group:
            for _ in range(_CLIENTS):
                group.create_task(client())
        await shop.wait_for(_PAYMENTS)
        used_s = _cpu_s(simulator.pid) - started_s
        statistics = await simulator.control("/control/statistics")
        assert statistics["orders_created"] == statistics["orders_paid"] == _PAYMENTS
        assert await simulator.control("/books") == {
            "captures": {"CNY": {"count": _PAYMENTS, "amount_minor": 1999 * _PAYMENTS}},
            "refunds": {},
        }
        assert used_s / _PAYMENTS < 0.0025, f"{used_s / _PAYMENTS * 1e6:.0f} µs a payment"


async def test_batches_are_distinct_and_judged_good(simulator: WechatSimulator) -> None:
    orders = [{"out_trade_no": f"BATCH{number:04d}", "total": 100 + number} for number in range(700)]
    async with (
        aiohttp.ClientSession(trust_env=False) as session,
        session.post(f"{simulator.control_url}/control/callbacks/batch", json={"orders": orders}) as answer,
    ):
        callbacks = [json.loads(line) for line in (await answer.read()).splitlines()]
    assert [callback["out_trade_no"] for callback in callbacks] == [order["out_trade_no"] for order in orders]
    verdicts = ask("wechat", "verify-callback", {"keys_dir": str(simulator.keys_dir), "callbacks": callbacks})
    assert all(verdict["accepted"] for verdict in verdicts)
    assert len({verdict["event"]["resource"]["transaction_id"] for verdict in verdicts}) == 700
    assert [verdict["event"]["resource"]["amount"]["total"] for verdict in verdicts] == [
        order["total"] for order in orders
    ]


def test_a_batch_is_written_ahead_to_a_file(channel_keys: Path, tmp_path: Path) -> None:
    out = tmp_path / "callbacks.jsonl"
    command = [sys.executable, "-m", "defray_sandbox.simulators.wechat.batch", "--keys-dir", str(channel_keys)]
    options = ["--out", str(out), "--count", "600", "--prefix", "AHEAD", "--mchid", MCHID, "--appid", APPID]
    subprocess.run([*command, *options], check=True, timeout=60)
    callbacks = [json.loads(line) for line in out.read_text(encoding="utf-8").splitlines()]
    assert [callback["out_trade_no"] for callback in callbacks[:2]] == ["AHEAD000000001", "AHEAD000000002"]
    verdicts = ask("wechat", "verify-callback", {"keys_dir": str(channel_keys), "callbacks": callbacks})
    assert [verdict["accepted"] for verdict in verdicts] == [True] * 600
