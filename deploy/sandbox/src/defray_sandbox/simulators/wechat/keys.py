"""Key material of both sides of the channel: `python -m defray_sandbox.simulators.wechat.keys DIR` makes it."""

import datetime as dt
import os
import secrets
import sys
from dataclasses import dataclass
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric.rsa import RSAPrivateKey, RSAPublicKey, generate_private_key
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.x509.oid import NameOID

_KEY_BITS = 2048
_EXPONENT = 65537
_APIV3_KEY_CHARACTERS = 32
_CERTIFICATE_LIFE = dt.timedelta(days=5 * 365)
GENERATIONS = ("", "_2")


@dataclass(frozen=True, slots=True, kw_only=True)
class PlatformKey:
    """One key that the channel signs replies and callbacks with; `certificate` is its PEM in certificate mode."""

    serial: str
    private: RSAPrivateKey
    certificate: bytes = b""


@dataclass(frozen=True, slots=True, kw_only=True)
class ChannelKeys:
    """All that the channel holds; `forger` is a key that no merchant knows.

    `generations` are the keys of public-key mode and `certificates` those of certificate mode, oldest first.
    """

    merchant: RSAPublicKey
    merchant_serial: str
    generations: tuple[PlatformKey, ...]
    certificates: tuple[PlatformKey, ...]
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
    certified = [suffix for suffix in GENERATIONS if (folder / f"platform_certificate{suffix}.pem").exists()]
    return ChannelKeys(
        merchant=merchant,
        merchant_serial=_text(folder / "merchant_serial.txt"),
        generations=tuple(_generation(folder, suffix) for suffix in present),
        certificates=tuple(_certificate(folder, suffix) for suffix in certified),
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
    _write(folder, files)
    # A set of its own: folders that are older than certificate mode get it as well.
    _write(folder, {name: content for suffix in GENERATIONS for name, content in _certified(suffix).items()})


def _write(folder: Path, files: dict[str, bytes]) -> None:
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
    return PlatformKey(
        serial=_text(folder / f"platform_serial{suffix}.txt"),
        private=_private(folder / f"platform_private{suffix}.pem"),
    )


def _certificate(folder: Path, suffix: str) -> PlatformKey:
    pem = (folder / f"platform_certificate{suffix}.pem").read_bytes()
    return PlatformKey(
        serial=f"{x509.load_pem_x509_certificate(pem).serial_number:X}",
        private=_private(folder / f"platform_certificate_private{suffix}.pem"),
        certificate=pem,
    )


def _private(path: Path) -> RSAPrivateKey:
    private = serialization.load_pem_private_key(path.read_bytes(), password=None)
    if not isinstance(private, RSAPrivateKey):
        raise TypeError(f"{path.name} is not an RSA key")
    return private


def _pair(owner: str, suffix: str) -> dict[str, bytes]:
    key = generate_private_key(_EXPONENT, _KEY_BITS)
    public = key.public_key().public_bytes(serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo)
    return {f"{owner}_private{suffix}.pem": _pem(key), f"{owner}_public{suffix}.pem": public}


def _certified(suffix: str) -> dict[str, bytes]:
    key = generate_private_key(_EXPONENT, _KEY_BITS)
    name = x509.Name(
        [
            x509.NameAttribute(NameOID.COUNTRY_NAME, "CN"),
            x509.NameAttribute(NameOID.ORGANIZATION_NAME, "Simulated channel"),
            x509.NameAttribute(NameOID.COMMON_NAME, "Simulated platform certificate"),
        ]
    )
    start = dt.datetime.now(dt.UTC) - dt.timedelta(days=1)
    certificate = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        # A first digit above zero: serials are compared as forty hexadecimal characters.
        .serial_number((4 << 156) | secrets.randbits(156))
        .not_valid_before(start)
        .not_valid_after(start + _CERTIFICATE_LIFE)
        .sign(key, SHA256())
    )
    return {
        f"platform_certificate_private{suffix}.pem": _pem(key),
        f"platform_certificate{suffix}.pem": certificate.public_bytes(serialization.Encoding.PEM),
    }


def _pem(key: RSAPrivateKey) -> bytes:
    return key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )


def _text(path: Path) -> str:
    return path.read_text(encoding="ascii").strip()


if __name__ == "__main__":
    if len(sys.argv) != 2:
        sys.exit("usage: python -m defray_sandbox.simulators.wechat.keys DIR")
    generate(Path(sys.argv[1]))
