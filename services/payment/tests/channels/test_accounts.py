"""Accounts at channels: added, rotated and retired while the service runs; sealed, audited, and never mixed up."""

import argparse
import datetime as dt
import json
from pathlib import Path
from typing import Any

import pytest
from cryptography import x509

from defray_kernel import audit
from defray_kernel.clock import SystemClock
from defray_kernel.crypto import Envelope
from defray_kernel.db import Database
from defray_kernel.errors import ConfigInvalid
from defray_kernel.ids import show
from defray_payment.channels.build import Secrets
from defray_payment.channels.registry import Channels
from defray_payment.commands import manage_accounts
from defray_payment.commands.manage_accounts import AddAccount
from defray_payment.entrypoints import account_verbs
from defray_payment.entrypoints.account_refresh import AccountRefresh
from defray_sandbox.simulators.process import (
    ALIPAY_APP_ID,
    ALIPAY_SELLER_ID,
)

from ..conftest import number, status_of  # noqa: TID252 - the tests of one service
from .conftest import Lab


async def test_an_account_is_added_while_the_service_runs_and_money_comes_through_it(lab: Lab) -> None:
    assert (await lab.pay("alipay", "precreate")).body["code"] == "unsupported_channel"
    await lab.add(lab.alipay_wish())
    answer = await lab.pay("alipay", "precreate")
    assert answer.status == 201, answer.body
    assert answer.body["next_action"]["type"] == "qr"
    told = await lab.alipay.control("/control/pay", {"out_trade_no": number(answer), "wait": True})
    assert [each["status"] for each in told["callbacks"]] == [200]  # and the body was exactly `success`
    assert (await lab.alipay.control("/control/statistics"))["orders_notified"] == 1
    assert await status_of(lab.service, answer.body["payment_id"]) == "SUCCEEDED"
    assert await lab.service.cases() == []


@pytest.mark.parametrize("product", ["page", "wap", "app"])
async def test_a_link_is_open_until_it_is_opened_or_has_expired(lab: Lab, product: str) -> None:
    await lab.add(lab.alipay_wish())
    paid, left = await lab.pay("alipay", product), await lab.pay("alipay", product)
    for answer in (paid, left):
        assert answer.status == 201, answer.body
    lab.service.clock.ahead += dt.timedelta(seconds=60)
    assert await lab.service.query_due() == 2
    assert [await status_of(lab.service, a.body["payment_id"]) for a in (paid, left)] == ["PENDING"] * 2
    assert await lab.service.cases() == []
    data = paid.body["next_action"]["data"]
    await lab.alipay.control("/control/pay", {"link": data.get("url") or data["order_string"], "wait": True})
    assert await status_of(lab.service, paid.body["payment_id"]) == "SUCCEEDED"
    lab.service.clock.ahead += dt.timedelta(seconds=2 * 3600)
    assert await lab.service.query_due() == 1
    assert await status_of(lab.service, left.body["payment_id"]) == "CLOSED"
    assert await lab.service.cases() == []


async def test_a_scanned_code_is_paid_at_once_or_reversed_after_a_minute(lab: Lab) -> None:
    await lab.add(lab.alipay_wish())
    await lab.add(lab.wechat_wish())
    for channel, product, levers in (("alipay", "pay", lab.alipay), ("wechat", "codepay", lab.wechat)):
        code = "280000000000000001" if channel == "alipay" else "130000000000000001"
        payer = {"payer": {"auth_code": code}}
        answer = await lab.pay(channel, product, **payer)
        assert (answer.status, answer.body["status"]) == (201, "SUCCEEDED"), answer.body
        await levers.control("/control/payers", {"payer": "types_password", "count": 1})
        answer = await lab.pay(channel, product, **payer)
        assert (answer.status, answer.body["status"]) == (201, "PENDING"), answer.body
        lab.service.clock.ahead += dt.timedelta(seconds=130)
        await lab.service.query_due()
        assert await status_of(lab.service, answer.body["payment_id"]) == "CLOSED"
        assert answer.body["payment_id"].startswith("pay_")
    assert await lab.service.cases() == []
    sealed = await lab.service.rows("SELECT payer_sealed FROM attempt")
    assert all(row["payer_sealed"] is not None and b"0000000000001" not in row["payer_sealed"] for row in sealed)


async def test_keys_are_rotated_online_and_the_old_one_is_refused_afterwards(lab: Lab) -> None:
    account_id = await lab.add(lab.alipay_wish(only=1))
    await lab.alipay.control("/control/keys", {"generation": 2})
    lost = await lab.pay("alipay", "precreate")
    assert lost.status == 202  # a reply by a key that is not ours proves nothing
    wish = lab.alipay_wish(only=2)
    async with lab.service.database.transaction() as tx:
        await manage_accounts.rotate(
            manage_accounts.RotateAccount(account_id=account_id, secrets=wish.secrets, actor="ann"),
            tx,
            lab.service.clock,
            envelope=lab.envelope,
        )
    await lab.refresh.refresh()
    assert (await lab.pay("alipay", "precreate")).status == 201
    await lab.alipay.control("/control/keys", {"generation": 1})
    assert (await lab.pay("alipay", "precreate")).status == 202


async def test_a_retired_account_takes_nothing_new_and_ends_what_it_began(lab: Lab) -> None:
    account_id = await lab.add(lab.alipay_wish())
    begun = await lab.pay("alipay", "precreate")
    await lab.desk.retire(account_id, "ann")
    await lab.refresh.refresh()
    assert (await lab.pay("alipay", "precreate")).body["code"] == "unsupported_channel"
    await lab.alipay.control("/control/pay", {"out_trade_no": number(begun), "wait": True})
    assert await status_of(lab.service, begun.body["payment_id"]) == "SUCCEEDED"


async def test_a_merchants_own_account_comes_before_the_platforms(lab: Lab) -> None:
    platform = await lab.add(lab.alipay_wish())
    own = await lab.add(
        lab.alipay_wish(merchant_id=lab.service.one.merchant_id, merchant_ref="2088000000000077", app_ref="2021000077")
    )
    find = lab.service.channels.find
    mine, others = find("alipay", lab.service.one.merchant_id), find("alipay", lab.service.other.merchant_id)
    assert mine is not None
    assert others is not None
    assert (mine.account.account_id, others.account.account_id) == (own, platform)


async def test_one_account_never_vouches_for_another(lab: Lab) -> None:
    """A merchant pays to its own account under the number of a stranger's attempt: genuine, and proves nothing."""
    await lab.add(lab.alipay_wish())
    other = await lab.add(lab.alipay_wish(merchant_id=lab.service.other.merchant_id, app_ref="2021000000000099"))
    answer = await lab.pay("alipay", "precreate")
    await lab.alipay.control("/control/callbacks", {"never": True})
    await lab.alipay.control("/control/pay", {"out_trade_no": number(answer)})
    told = await lab.alipay.control(
        "/control/callbacks/send",
        {"out_trade_no": number(answer), "dry_run": True, "overrides": {"app_id": "2021000000000099"}},
    )
    (heard,) = told["callbacks"]
    url = f"{lab.service.url}/v1/webhooks/alipay/{other}"
    async with lab.service.http.post(url, data=heard["body"].encode(), headers=heard["headers"]) as reply:
        assert (reply.status, await reply.read()) == (200, b"success")
    assert await lab.service.rows("SELECT status FROM payment") == [{"status": "PENDING"}]
    assert await lab.service.cases() == ["account_mismatch"]
    async with lab.service.http.post(
        f"{lab.service.url}/v1/webhooks/alipay/00000000-0000-0000-0000-000000000000", data=b"x"
    ) as reply:
        assert reply.status == 401


async def test_what_cannot_verify_is_not_added_and_the_reason_names_no_key(lab: Lab) -> None:
    good = lab.alipay_wish()
    for wish in (
        lab.alipay_wish(secrets=Secrets(private_key=good.secrets.private_key, verify_keys={})),
        lab.alipay_wish(secrets=Secrets(private_key="no", verify_keys=good.secrets.verify_keys)),
        lab.alipay_wish(channel="unionpay"),
        lab.alipay_wish(merchant_ref="1"),
        lab.alipay_wish(base_url="ftp://x.example"),
        lab.wechat_wish(secrets=good.secrets),
    ):
        with pytest.raises(ConfigInvalid) as refused:
            await lab.add(wish)
        assert "BEGIN" not in str(refused.value)
    assert await lab.service.rows("SELECT 1 FROM channel_account") == []


async def test_keys_are_sealed_and_every_act_is_audited(lab: Lab) -> None:
    account_id = await lab.add(lab.alipay_wish())
    assert await lab.add(lab.alipay_wish()) is manage_accounts.AccountRefusal.EXISTS
    await lab.desk.retire(account_id, "bob")
    (row,) = await lab.service.rows("SELECT secrets_sealed FROM channel_account")
    assert b"PRIVATE KEY" not in row["secrets_sealed"]
    rows = await lab.service.rows("SELECT actor, action, subject, detail FROM audit_log ORDER BY seq")
    acts = [(row["actor"], row["action"]) for row in rows if row["subject"] == str(account_id)]
    assert acts == [("ann", "channel_account.add"), ("bob", "channel_account.retire")]
    assert "PRIVATE" not in json.dumps([dict(row) for row in rows])
    async with lab.service.database.read() as conn:
        assert (await audit.verify(conn)).broken_at is None
    (shown,) = await lab.desk.list_all()
    assert (shown.status, shown.verifies_with) == ("RETIRED", ["k1", "k2"])


async def test_an_account_that_is_damaged_touches_no_other_and_goes_on_as_it_was(lab: Lab) -> None:
    damaged = await lab.add(lab.alipay_wish())
    await lab.add(lab.wechat_wish())
    async with lab.service.database.transaction() as tx:
        await tx.execute(
            "UPDATE channel_account SET secrets_sealed = 'x', version = version + 1 WHERE account_id = $1", damaged
        )
    await lab.refresh.refresh()
    assert (await lab.pay("alipay", "precreate")).status == 201
    fresh = Channels()
    started = AccountRefresh(
        database=lab.service.database, envelope=lab.envelope, builder=lab.refresh.builder, channels=fresh
    )
    await started.refresh()
    await started.refresh()
    assert [line.capabilities.channel for line in fresh.lines] == ["wechat"]


@pytest.mark.parametrize("channel", ["wechat", "alipay"])
async def test_an_unknown_certificate_is_refused_then_fetched_once_a_minute_and_taken_over(
    lab: Lab, channel: str
) -> None:
    """The channel changes its certificate: until ours are fetched anew its word proves nothing, afterwards it does."""
    folder = getattr(lab, channel).keys_dir
    if channel == "wechat":
        pem = (folder / "platform_certificate.pem").read_text()
        serial = f"{x509.load_pem_x509_certificate(pem.encode()).serial_number:X}"
        good = lab.wechat_wish().secrets
        secrets = Secrets(
            private_key=good.private_key, verify_keys={serial: pem}, serial=good.serial, seal_key=good.seal_key
        )
        await lab.add(lab.wechat_wish(secrets=secrets))
        keys: dict[str, object] = {"public_key_percent": 0, "certificate_generation": 2, "certificates_published": 2}
    else:
        secrets = Secrets(
            private_key=(folder / "app_private.pem").read_text(),
            verify_keys={"one": (folder / "alipay_certificate.pem").read_text()},
            certificate=(folder / "app_certificate.pem").read_text(),
            root=(folder / "alipay_root.pem").read_text(),
        )
        await lab.add(lab.alipay_wish(secrets=secrets))
        keys = {"generation": 2}
    product, levers = ("native", lab.wechat) if channel == "wechat" else ("precreate", lab.alipay)
    before = await lab.pay(channel, product)
    assert before.status == 201, before.body
    await levers.control("/control/keys", keys)
    now = [1000.0]
    lab.refresh.monotonic = lambda: now[0]
    told = await levers.control("/control/pay", {"out_trade_no": number(before), "wait": True})
    assert [each["status"] for each in told["callbacks"]] == [401]
    await lab.pay(channel, product)
    for _ in range(5):
        await lab.refresh.fetch_keys()
        await lab.refresh.refresh()
        (line,) = lab.service.channels.lines
        line.unknown_key = "F" * 32  # somebody goes on naming keys that nobody has
    asked = (await levers.control("/control/statistics"))["requests"]
    assert asked["certificates" if channel == "wechat" else "certificate"] == 1
    told = await levers.control("/control/callbacks/send", {"out_trade_no": number(before)})
    assert [each["status"] for each in told["callbacks"]] == [204 if channel == "wechat" else 200]
    assert await status_of(lab.service, before.body["payment_id"]) == "SUCCEEDED"
    assert (await lab.pay(channel, product)).status == 201
    now[0] += 61
    await lab.refresh.fetch_keys()
    asked = (await levers.control("/control/statistics"))["requests"]
    assert asked["certificates" if channel == "wechat" else "certificate"] == 2
    actors = await lab.service.rows(
        "SELECT actor FROM audit_log WHERE action = 'channel_account.rotate' AND subject = $1",
        str(line.account.account_id),
    )
    assert [row["actor"] for row in actors] == ["channel"]


async def test_the_settings_account_is_taken_once_and_an_operators_change_stands(
    database: Database, envelope: Envelope, lab: Lab
) -> None:
    async def seed(wish: AddAccount) -> bool:
        async with database.transaction() as tx:
            return await manage_accounts.seed(wish, tx, SystemClock(), envelope=envelope, tls_only=False)

    wish = lab.wechat_wish()
    assert [await seed(wish), await seed(wish)] == [True, False]
    (held,) = await lab.desk.list_all()
    fewer = Secrets(
        private_key=wish.secrets.private_key,
        verify_keys=dict(list(wish.secrets.verify_keys.items())[:1]),
        serial=wish.secrets.serial,
        seal_key=wish.secrets.seal_key,
    )
    async with database.transaction() as tx:
        from uuid import UUID

        rotated = manage_accounts.RotateAccount(account_id=UUID(held.account_id), secrets=fewer, actor="ann")
        await manage_accounts.rotate(rotated, tx, SystemClock(), envelope=envelope)
    assert await seed(wish) is False
    (after,) = await lab.desk.list_all()
    assert len(after.verifies_with) == 1
    assert await seed(lab.wechat_wish(secrets=fewer)) is True


async def test_the_command_line(lab: Lab, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    parser = argparse.ArgumentParser()
    account_verbs.declare(parser)
    folder = lab.alipay.keys_dir
    keys = tmp_path / "keys"
    keys.mkdir()
    (keys / "k1.pem").write_text((folder / "alipay_public.pem").read_text())
    given = ["--private-key", str(folder / "app_private.pem"), "--verify-keys", str(keys), "--actor", "ann"]
    owner = show("mer", lab.service.one.merchant_id)
    names = ["alipay", ALIPAY_SELLER_ID, ALIPAY_APP_ID, f"{lab.alipay.base_url}/gateway.do"]

    async def run(*arguments: str) -> tuple[int, Any]:
        code = await account_verbs.run(lab.desk, parser.parse_args(list(arguments)))
        told = capsys.readouterr()
        return code, [json.loads(line) for line in told.out.splitlines()] or told.err

    code, (added,) = await run("add", *names, *given, "--merchant", owner)
    assert code == 0
    code, (listed,) = await run("list")
    assert (listed["merchant_id"], listed["verifies_with"], listed["version"]) == (owner, ["k1"], 1)
    code, why = await run("add", *names, *given)
    assert (code, "account_exists" in why) == (1, True)
    (keys / "k1.pem").rename(keys / "k9.pem")
    code, (rotated,) = await run("rotate", added["account_id"], *given)
    assert (rotated["verifies_with"], rotated["version"]) == (["k9"], 2)
    (keys / "k9.pem").write_text("nothing")
    code, why = await run("rotate", added["account_id"], *given)
    assert (code, "account_unusable" in why) == (1, True)
    code, (retired,) = await run("retire", added["account_id"], "--actor", "ann")
    assert (code, retired["status"]) == (0, "RETIRED")
    code, why = await run("retire", "00000000-0000-0000-0000-000000000000", "--actor", "ann")
    assert (code, "not_found" in why) == (1, True)
