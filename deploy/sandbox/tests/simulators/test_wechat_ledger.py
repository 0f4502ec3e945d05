"""The channel's ledger loses nothing it answered for, belongs to one process, and keys are kept from others."""

import asyncio
import stat
from collections.abc import Callable
from pathlib import Path

import aiohttp
import pytest

from defray_sandbox.simulators.process import SimulatorFailedError, WechatSimulator
from defray_sandbox.simulators.wechat.keys import generate

from .conftest import Merchant


async def test_a_crash_under_load_loses_no_answered_order(new_simulator: Callable[..., WechatSimulator]) -> None:
    async with new_simulator() as simulator, aiohttp.ClientSession(trust_env=False) as session:
        merchant = Merchant(simulator, session)
        answered: list[str] = []
        enough = asyncio.Event()

        async def create(number: str) -> None:
            try:
                if (await merchant.create(number)).status == 200:
                    answered.append(number)
                    if len(answered) == 20:
                        enough.set()
            except aiohttp.ClientError:
                pass

        async with asyncio.TaskGroup() as group:
            for number in range(300):
                group.create_task(create(f"CRASH{number:05d}"))
            await enough.wait()
            await simulator.kill()
        assert 0 < len(answered) < 300
        with simulator.state_file.open("ab") as ledger:
            ledger.write(b'{"event":"created","out_tra')
        await simulator.start()
        known = {order["out_trade_no"] for order in (await simulator.control("/control/orders"))["orders"]}
        assert set(answered) <= known
        assert (await merchant.create("AFTER1")).status == 200
        await simulator.stop()
        await simulator.start()
        assert (await merchant.query("AFTER1")).status == 200


async def test_all_states_survive(new_simulator: Callable[..., WechatSimulator]) -> None:
    async with new_simulator() as simulator, aiohttp.ClientSession(trust_env=False) as session:
        merchant = Merchant(simulator, session)
        for number in ("OPEN01", "PAID01", "CLOSED1"):
            await merchant.create(number)
        paid = await simulator.control("/control/pay", {"out_trade_no": "PAID01"})
        await merchant.close("CLOSED1")
        before = [(await merchant.query(number)).body for number in ("OPEN01", "PAID01", "CLOSED1")]
        await simulator.kill()
        await simulator.start()
        assert [(await merchant.query(number)).body for number in ("OPEN01", "PAID01", "CLOSED1")] == before
        by_id = await merchant.call("GET", f"/v3/pay/transactions/id/{paid['transaction_id']}?mchid=1900000109")
        assert by_id.body == before[1]
        await simulator.control("/control/reset", {})
        await simulator.stop()
        await simulator.start()
        assert (await simulator.control("/control/orders"))["orders"] == []


async def test_one_ledger_has_one_writer(simulator: WechatSimulator) -> None:
    other = WechatSimulator(simulator.folder)
    with pytest.raises(SimulatorFailedError, match="LedgerInUseError"):
        await other.start()


def test_keys_are_private_and_made_once(tmp_path: Path) -> None:
    generate(tmp_path / "keys")
    before = {path.name: path.read_bytes() for path in (tmp_path / "keys").iterdir()}
    assert {stat.S_IMODE(path.stat().st_mode) for path in (tmp_path / "keys").iterdir()} == {0o600}
    generate(tmp_path / "keys")
    assert {path.name: path.read_bytes() for path in (tmp_path / "keys").iterdir()} == before
    (tmp_path / "keys" / "apiv3_key.txt").unlink()
    with pytest.raises(FileExistsError, match="only a part"):
        generate(tmp_path / "keys")
