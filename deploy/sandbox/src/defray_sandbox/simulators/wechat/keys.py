"""Key material of both sides of the channel: `python -m defray_sandbox.simulators.wechat.keys DIR` makes it."""

import os
import secrets
import sys
from dataclasses import dataclass
from pathlib import Path

from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric.rsa import RSAPrivateKey, RSAPublicKey, generate_private_key

_KEY_BITS = 2048
_EXPONENT = 65537
_APIV3_KEY_CHARACTERS = 32
GENERATIONS = ("", "_2")


@dataclass(frozen=True, slots=True, kw_only=True)
class PlatformKey:
    """One generation of the key that the channel signs replies and callbacks with."""

    serial: str
    private: RSAPrivateKey


@dataclass(frozen=True, slots=True, kw_only=True)
class ChannelKeys:
    """All that the channel holds; `forger` is a key that no merchant knows, `generations` are oldest first."""

    merchant: RSAPublicKey
    merchant_serial: str
    generations: tuple[PlatformKey, ...]
    forger: RSAPrivateKey
    apiv3_key: bytes


def load(folder: Path) -> ChannelKeys:
    """Parse the channel's keys once.

    Raises FileNotFoundError for an absent file, ValueError or TypeError for a wrong one.
    """
    merchant = serialization.load_pem_public_key((folder / "merchant_public.pem").read_bytes())
    if not isinstance(merchant, RSAPublicKey):
        raise TypeError("merchant_public.pem is not an RSA key")
    apiv3_key = _text(folder / "apiv3_key.txt").encode()
    if len(apiv3_key) != _APIV3_KEY_CHARACTERS:
        raise ValueError("apiv3_key.txt must hold 32 characters")
    present = [suffix for suffix in GENERATIONS if suffix == "" or (folder / f"platform_private{suffix}.pem").exists()]
    return ChannelKeys(
        merchant=merchant,
        merchant_serial=_text(folder / "merchant_serial.txt"),
        generations=tuple(_generation(folder, suffix) for suffix in present),
        forger=generate_private_key(_EXPONENT, _KEY_BITS),
        apiv3_key=apiv3_key,
    )


def generate(folder: Path) -> None:
    """Write fresh keys of both sides into the folder, readable by the owner only; existing files are kept as they are.

    Raises FileExistsError when only a part of the files is there: mixing two sets would fail in a confusing way.
    """
    folder.mkdir(parents=True, exist_ok=True, mode=0o700)
    files = _pair("merchant", "") | {"merchant_serial.txt": secrets.token_hex(20).upper().encode()}
    for number, suffix in enumerate(GENERATIONS, start=1):
        serial = f"PUB_KEY_ID_{number:02d}{secrets.randbelow(10**26):026d}"
        files |= _pair("platform", suffix) | {f"platform_serial{suffix}.txt": serial.encode()}
    files["apiv3_key.txt"] = secrets.token_hex(_APIV3_KEY_CHARACTERS // 2).encode()
    present = {name for name in files if (folder / name).exists()}
    if present == set(files):
        return
    if present:
        raise FileExistsError(f"{folder} holds only a part of a key set: {', '.join(sorted(present))}")
    for name, content in files.items():
        descriptor = os.open(folder / name, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        with os.fdopen(descriptor, "wb") as file:
            file.write(content)


def _generation(folder: Path, suffix: str) -> PlatformKey:
    private = serialization.load_pem_private_key((folder / f"platform_private{suffix}.pem").read_bytes(), password=None)
    if not isinstance(private, RSAPrivateKey):
        raise TypeError(f"platform_private{suffix}.pem is not an RSA key")
    return PlatformKey(serial=_text(folder / f"platform_serial{suffix}.txt"), private=private)


def _pair(owner: str, suffix: str) -> dict[str, bytes]:
    key = generate_private_key(_EXPONENT, _KEY_BITS)
    private = key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    public = key.public_key().public_bytes(serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo)
    return {f"{owner}_private{suffix}.pem": private, f"{owner}_public{suffix}.pem": public}


def _text(path: Path) -> str:
    return path.read_text(encoding="ascii").strip()


if __name__ == "__main__":
    if len(sys.argv) != 2:
        sys.exit("usage: python -m defray_sandbox.simulators.wechat.keys DIR")
    generate(Path(sys.argv[1]))
