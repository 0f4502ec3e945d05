"""Accounts from mounted key files: the sandbox's way to have some before any operator was there."""

from __future__ import annotations

from pathlib import Path

from defray_kernel.errors import ConfigInvalid
from defray_payment.channels.build import Secrets
from defray_payment.commands.manage_accounts import SEED_ACTOR, AddAccount


def wechat(
    *, mchid: str, appid: str, base_url: str, private_key: Path, serial: str, platform: Path, apiv3_key: Path
) -> AddAccount:
    """WeChat's account. Raises ConfigInvalid, naming no content, for files that do not read."""
    secrets = Secrets(
        private_key=_text(private_key),
        verify_keys=_texts(platform),
        serial=serial,
        seal_key=_text(apiv3_key).strip(),
    )
    return _add("wechat", mchid, appid, base_url, secrets)


def alipay(
    *,
    seller_id: str,
    app_id: str,
    gateway_url: str,
    private_key: Path,
    keys: Path,
    certificate: Path | None,
    root: Path | None,
) -> AddAccount:
    """Alipay's account. Raises ConfigInvalid, naming no content, for files that do not read."""
    secrets = Secrets(
        private_key=_text(private_key),
        verify_keys=_texts(keys),
        certificate=None if certificate is None else _text(certificate),
        root=None if root is None else _text(root),
    )
    return _add("alipay", seller_id, app_id, gateway_url, secrets)


def _add(channel: str, merchant_ref: str, app_ref: str, base_url: str, secrets: Secrets) -> AddAccount:
    return AddAccount(
        channel=channel,
        merchant_id=None,
        merchant_ref=merchant_ref,
        app_ref=app_ref,
        base_url=base_url.rstrip("/"),
        secrets=secrets,
        actor=SEED_ACTOR,
    )


def _text(path: Path) -> str:
    try:
        return path.read_text("utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigInvalid(f"a channel's key file cannot be read: {type(error).__name__}") from None


def _texts(folder: Path) -> dict[str, str]:
    return {path.stem: _text(path) for path in sorted(folder.glob("*.pem"))}
