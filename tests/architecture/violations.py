"""For each tidy rule and each guard a file that breaks it, and a neighbour that does not: the rules' own test data."""

import dataclasses

_PAYMENT = "services/payment/src/defray_payment"
_KERNEL = "shared/src/defray_kernel"


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Violation:
    """A rule by its function's name, where the file stands, what breaks the rule and what does not."""

    rule: str
    path: str
    broken: str
    clean: str


def _function(lines: int) -> str:
    return '"""A module."""\ndef f():\n' + "    x = 1\n" * (lines - 1)


VIOLATIONS = (
    Violation(
        rule="module_docstring",
        path=f"{_PAYMENT}/announce.py",
        broken='x = 1\n"""Late."""\n',
        clean='"""Which state becomes which event."""\nx = 1\n',
    ),
    Violation(rule="function_length", path=f"{_PAYMENT}/announce.py", broken=_function(61), clean=_function(60)),
    Violation(rule="file_length", path=f"{_PAYMENT}/announce.py", broken="x = 1\n" * 401, clean="x = 1\n" * 400),
    Violation(rule="vague_name", path=f"{_PAYMENT}/store/utils.py", broken="x = 1\n", clean=""),
    Violation(
        rule="frozen_values",
        path=f"{_PAYMENT}/domain/payment.py",
        broken="@dataclass(frozen=True, slots=True)\nclass Payment: ...\n",
        clean="@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)\nclass Payment: ...\n",
    ),
    Violation(
        rule="frozen_values",
        path=f"{_PAYMENT}/domain/refund.py",
        broken="class Refund(msgspec.Struct, frozen=True): ...\n",
        clean="class Refund(msgspec.Struct, frozen=True, kw_only=True): ...\n",
    ),
    Violation(
        rule="string_enums",
        path=f"{_PAYMENT}/domain/payment.py",
        broken="class State(str, enum.Enum): ...\n",
        clean="class State(enum.StrEnum): ...\n",
    ),
    Violation(
        rule="no_floats_near_money",
        path=f"{_KERNEL}/money.py",
        broken="def fee(minor): return int(minor * 0.006)\n",
        clean="def fee(minor): return minor * 6 // 1000\ndef check(x): return isinstance(x, float)\n",
    ),
    Violation(
        rule="import_does_nothing",
        path=f"{_PAYMENT}/wiring.py",
        broken="app = fastapi.FastAPI()\n",
        clean="def build(): return fastapi.FastAPI()\nstates = frozenset({1})\n",
    ),
    Violation(
        rule="asserting_tests",
        path="services/payment/tests/test_payment.py",
        broken="def test_it_runs():\n    run()\n",
        clean="def test_it_adds():\n    assert 1 + 1 == 2\n",
    ),
    Violation(
        rule="no_skips",
        path="services/payment/tests/test_payment.py",
        broken="@pytest.mark.skipif(True)\ndef test_x(): assert True\n",
        clean="@pytest.mark.full\ndef test_x(): assert parking.skip(1)\n",
    ),
    Violation(
        rule="no_patching",
        path="services/payment/tests/test_payment.py",
        broken="from unittest import mock\n",
        clean="import unittest\n",
    ),
    Violation(
        rule="getmany_is_never_cancelled",
        path=f"{_KERNEL}/consumer.py",
        broken="async def f(c): await asyncio.wait_for(c.getmany(timeout_ms=500), 1)\n",
        clean="async def f(c): await c.getmany(timeout_ms=500); await asyncio.wait_for(c.stop(), 10)\n",
    ),
    Violation(
        rule="relay_sends_batches",
        path=f"{_KERNEL}/relay.py",
        broken="async def f(p): await p.send('topic', b'')\n",
        clean="async def f(p, b): await p.send_batch(b, 'topic', partition=1)\n",
    ),
    Violation(
        rule="no_notify_in_business",
        path=f"{_KERNEL}/outbox.py",
        broken="async def append(tx: WriteTx): await tx.execute(\"SELECT pg_notify('outbox', '')\")\n",
        clean="async def wake(conn: Wakeup): await conn.execute('NOTIFY outbox_wake')\n",
    ),
    Violation(
        rule="sql_in_files",
        path=f"{_PAYMENT}/store/payments.py",
        broken='async def get(c):\n    return await c.fetch(f"""SELECT *\n    FROM payment WHERE id = {1}""")\n',
        clean='"""SELECT a FROM b is only told of here."""\nX = "Select your bank from the list"\n',
    ),
    Violation(
        rule="store_never_commits",
        path=f"{_PAYMENT}/store/payments.py",
        broken="async def move(conn):\n    async with conn.transaction(): ...\n",
        clean="async def move(tx): await tx.fetch('move')\n",
    ),
    Violation(
        rule="one_http_client",
        path=f"{_PAYMENT}/channels/wechat/channel.py",
        broken="from httpx import AsyncClient\n",
        clean="from aiohttp import ClientSession\n",
    ),
    Violation(
        rule="strict_json",
        path=f"{_PAYMENT}/entrypoints/http.py",
        broken="import json\n",
        clean="import msgspec.json\n",
    ),
    Violation(
        rule="kafka_behind_ports",
        path=f"{_PAYMENT}/entrypoints/consumers.py",
        broken="import aiokafka.errors\n",
        clean="from defray_kernel import consumer\n",
    ),
)
