"""Key material of both sides of the channel: `python -m defray_sandbox.simulators.alipay.keys DIR` makes it."""

import datetime as dt
import hashlib
import os
import secrets
import sys
from dataclasses import dataclass
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.rsa import RSAPrivateKey, RSAPublicKey, generate_private_key
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.x509.oid import NameOID

_KEY_BITS = 2048
_EXPONENT = 65537
_LIFE = dt.timedelta(days=5 * 365)
_RSA_SIGNATURES = "1.2.840.113549.1.1."
GENERATIONS = ("", "_2")
Signer = tuple[x509.Certificate, RSAPrivateKey | ec.EllipticCurvePrivateKey]


@dataclass(frozen=True, slots=True, kw_only=True)
class AlipayKey:
    """One generation of the key that the channel signs with; `bundle` is its certificate and the one that issued it."""

    private: RSAPrivateKey
    certificate_sn: str
    bundle: bytes


@dataclass(frozen=True, slots=True, kw_only=True)
class ChannelKeys:
    """All that the channel holds; `forger` is a key that no merchant knows, `generations` are oldest first."""

    app: RSAPublicKey
    app_certificate_sn: str
    root_sn: str
    generations: tuple[AlipayKey, ...]
    forger: RSAPrivateKey


def certificate_sn(certificate: x509.Certificate) -> str:
    """MD5 of the issuer's name (most specific part first) and the decimal serial. Source: certificate mode pages."""
    text = f"{certificate.issuer.rfc4514_string()}{certificate.serial_number}"
    return hashlib.md5(text.encode(), usedforsecurity=False).hexdigest()


def root_sn(bundle: bytes) -> str:
    """The numbers of the RSA-signed certificates of a root bundle, joined by `_`."""
    roots = x509.load_pem_x509_certificates(bundle)
    rsa_signed = [root for root in roots if root.signature_algorithm_oid.dotted_string.startswith(_RSA_SIGNATURES)]
    return "_".join(certificate_sn(root) for root in rsa_signed)


def load(folder: Path) -> ChannelKeys:
    """Parse the channel's keys once.

    Raises FileNotFoundError for an absent file, ValueError or TypeError for a wrong one.
    """
    app = serialization.load_pem_public_key((folder / "app_public.pem").read_bytes())
    if not isinstance(app, RSAPublicKey):
        raise TypeError("app_public.pem is not an RSA key")
    present = [suffix for suffix in GENERATIONS if suffix == "" or (folder / f"alipay_private{suffix}.pem").exists()]
    return ChannelKeys(
        app=app,
        app_certificate_sn=certificate_sn(
            x509.load_pem_x509_certificate((folder / "app_certificate.pem").read_bytes())
        ),
        root_sn=root_sn((folder / "alipay_root.pem").read_bytes()),
        generations=tuple(_generation(folder, suffix) for suffix in present),
        forger=generate_private_key(_EXPONENT, _KEY_BITS),
    )


def generate(folder: Path) -> None:
    """Write fresh keys and certificates of both sides into the folder, readable by the owner only; existing ones stay.

    The root bundle holds two roots signed with RSA and one that is not, as the real one does.
    Raises FileExistsError when only a part of the files is there: mixing two sets would fail in a confusing way.
    """
    folder.mkdir(parents=True, exist_ok=True, mode=0o700)
    names = ["app_private.pem", "app_public.pem", "app_certificate.pem", "alipay_root.pem"]
    names += [f"alipay_{what}{suffix}.pem" for suffix in GENERATIONS for what in ("private", "public", "certificate")]
    present = {name for name in names if (folder / name).exists()}
    if present == set(names):
        return
    if present:
        raise FileExistsError(f"{folder} holds only a part of a key set: {', '.join(sorted(present))}")
    for name, content in _material().items():
        descriptor = os.open(folder / name, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        with os.fdopen(descriptor, "wb") as file:
            file.write(content)


def _material() -> dict[str, bytes]:
    root = _authority("Simulated Certification Authority R1", None)
    other = _authority("Simulated Certification Authority R2", None)
    curve = _authority("Simulated Certification Authority E1", None, ec.generate_private_key(ec.SECP256R1()))
    issuing = _authority("Simulated Certification Authority Class 2 R1", root)
    files = {"alipay_root.pem": b"".join(_pem(authority[0]) for authority in (root, curve, other))}
    files |= _leaf("app", "", issuing, "2021000000000001")
    for suffix in GENERATIONS:
        files |= _leaf("alipay", suffix, issuing, "Simulated channel")
    return files


def _generation(folder: Path, suffix: str) -> AlipayKey:
    private = serialization.load_pem_private_key((folder / f"alipay_private{suffix}.pem").read_bytes(), password=None)
    if not isinstance(private, RSAPrivateKey):
        raise TypeError(f"alipay_private{suffix}.pem is not an RSA key")
    bundle = (folder / f"alipay_certificate{suffix}.pem").read_bytes()
    return AlipayKey(
        private=private, certificate_sn=certificate_sn(x509.load_pem_x509_certificate(bundle)), bundle=bundle
    )


def _authority(name: str, issuer: Signer | None, key: ec.EllipticCurvePrivateKey | None = None) -> Signer:
    own = key or generate_private_key(_EXPONENT, _KEY_BITS)
    return _certify(_name(name), own, issuer, is_authority=True), own


def _leaf(owner: str, suffix: str, issuing: Signer, name: str) -> dict[str, bytes]:
    key = generate_private_key(_EXPONENT, _KEY_BITS)
    certificate = _certify(_name(name), key, issuing, is_authority=False)
    private = key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    public = key.public_key().public_bytes(serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo)
    return {
        f"{owner}_private{suffix}.pem": private,
        f"{owner}_public{suffix}.pem": public,
        f"{owner}_certificate{suffix}.pem": _pem(certificate) + _pem(issuing[0]),
    }


def _certify(
    subject: x509.Name, key: RSAPrivateKey | ec.EllipticCurvePrivateKey, issuer: Signer | None, *, is_authority: bool
) -> x509.Certificate:
    start = dt.datetime.now(dt.UTC) - dt.timedelta(days=1)
    return (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer[0].subject if issuer else subject)
        .public_key(key.public_key())
        .serial_number((1 << 120) | secrets.randbits(120))
        .not_valid_before(start)
        .not_valid_after(start + _LIFE)
        .add_extension(x509.BasicConstraints(ca=is_authority, path_length=None), critical=True)
        .sign(issuer[1] if issuer else key, SHA256())
    )


def _name(common: str) -> x509.Name:
    return x509.Name(
        [
            x509.NameAttribute(NameOID.COUNTRY_NAME, "CN"),
            x509.NameAttribute(NameOID.ORGANIZATION_NAME, "Simulated channel"),
            x509.NameAttribute(NameOID.ORGANIZATIONAL_UNIT_NAME, "Certification Authority"),
            x509.NameAttribute(NameOID.COMMON_NAME, common),
        ]
    )


def _pem(certificate: x509.Certificate) -> bytes:
    return certificate.public_bytes(serialization.Encoding.PEM)


if __name__ == "__main__":
    if len(sys.argv) != 2:
        sys.exit("usage: python -m defray_sandbox.simulators.alipay.keys DIR")
    generate(Path(sys.argv[1]))
