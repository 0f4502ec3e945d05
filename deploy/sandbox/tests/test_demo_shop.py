"""The demo shop's signature check, judged by the reference library, and what it remembers."""

import base64
import secrets
import sys
import time
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import aiohttp
import pytest
import pytest_asyncio

from defray_sandbox.demo_shop import refusal
from defray_sandbox.stack.processes import free_port
from defray_sandbox.stack.supervisor import ProcessSpec, Supervisor
from tests.judges.run import ask

_KEY = secrets.token_bytes(32)
_SECRET = "whsec_" + base64.b64encode(_KEY).decode()
_BODY = '{"type":"order.paid.v1","data":{"order_id":"ord_1"}}'


def _signed(at_s: int) -> dict[str, str]:
    signature = ask("standardwebhooks", "sign", [{"secret": _SECRET, "id": "msg_1", "timestamp": at_s, "body": _BODY}])
    return {"webhook-id": "msg_1", "webhook-timestamp": str(at_s), "webhook-signature": signature[0]}


def test_the_shop_believes_exactly_what_the_reference_library_believes() -> None:
    now_s = int(time.time())
    good = _signed(now_s)
    cases: list[tuple[dict[str, str], str]] = [
        (good, _BODY),
        (good | {"webhook-signature": "v1,AAAA " + good["webhook-signature"]}, _BODY),
        (good, _BODY + " "),
        (good | {"webhook-id": "msg_2"}, _BODY),
        (good | {"webhook-timestamp": str(now_s + 1)}, _BODY),
        (good | {"webhook-signature": good["webhook-signature"].replace("v1,", "v1a,")}, _BODY),
        (good | {"webhook-signature": ""}, _BODY),
        ({name: value for name, value in good.items() if name != "webhook-id"}, _BODY),
        (_signed(now_s - 301), _BODY),
        (_signed(now_s + 302), _BODY),
    ]
    verdicts = ask("standardwebhooks", "verify", [{"headers": h, "body": b, "secret": _SECRET} for h, b in cases])
    ours = [refusal(_KEY, headers, body.encode(), now_s) == "" for headers, body in cases]
    assert ours == [verdict["accepted"] for verdict in verdicts]
    assert ours == [True, True, *[False] * 8]


@pytest_asyncio.fixture
async def shop(tmp_path: Path) -> AsyncIterator[tuple[str, str]]:
    port, control = free_port(), free_port()
    argv = (sys.executable, "-m", "defray_sandbox.demo_shop", "--port", str(port), "--control-port", str(control))
    spec = ProcessSpec(
        name="shop",
        argv=argv,
        env={"PYTHONPATH": ":".join(sys.path)},
        ready_url=f"http://127.0.0.1:{control}/health",
    )
    async with Supervisor(folder=tmp_path / "run", log_folder=tmp_path, tell=print) as supervisor:
        await supervisor.start([spec])
        yield f"http://127.0.0.1:{port}", f"http://127.0.0.1:{control}"


async def test_it_remembers_refuses_and_answers_as_told(shop: tuple[str, str]) -> None:
    public, control = shop
    async with aiohttp.ClientSession() as session:

        async def deliver(headers: dict[str, str]) -> int:
            async with session.post(f"{public}/hooks/lantern", data=_BODY, headers=headers) as answer:
                return answer.status

        async def received() -> dict[str, Any]:
            async with session.get(f"{control}/received") as answer:
                return dict(await answer.json())

        signed = _signed(int(time.time()))
        assert await deliver(signed) == 404
        await session.post(f"{control}/shops/lantern", json={"secret": _SECRET, "answers": [500]})
        assert [await deliver(signed), await deliver(signed), await deliver({})] == [500, 204, 401]
        seen = (await received())["lantern"]
    assert (seen["total"], seen["refused"]) == (3, 2)
    assert [each["refused"] for each in seen["received"]] == [
        "told to answer 500",
        "",
        "webhook-id or webhook-timestamp is missing",
    ]
    assert seen["received"][1]["type"] == "order.paid.v1"
    assert seen["received"][1]["data"] == {"order_id": "ord_1"}


@pytest.mark.parametrize("timestamp", ["", "now", "-1", "1e3", "١٢٣"])
def test_a_timestamp_that_is_no_number_is_refused(timestamp: str) -> None:
    assert refusal(_KEY, {"webhook-id": "m", "webhook-timestamp": timestamp}, b"{}", 0) != ""
