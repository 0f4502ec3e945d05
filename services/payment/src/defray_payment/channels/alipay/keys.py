"""The keys of one Alipay app: ours to sign with, Alipay's to verify with, as bare keys or as certificates; parsed once."""

from __future__ import annotations

import base64
import hashlib
import itertools
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from cryptography import x509
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.rsa import RSAPrivateKey, RSAPublicKey

from defray_kernel.crypto import load_rsa_private, load_rsa_public
from defray_kernel.errors import ConfigInvalid

_KEYS_MAX: Final = 8
_RSA_SIGNATURES: Final = "1.2.840.113549.1.1."


@dataclass(frozen=True, slots=True, kw_only=True)
class AlipayKeys:
    """`alipay` maps a certificate's number (in public-key mode: a name of ours) to its key; two while one replaces the
    other. `app_cert_sn` and `root_cert_sn` are told with each request in certificate mode, and None without it.
    """

    app_private: RSAPrivateKey = field(repr=False)
    alipay: Mapping[str, RSAPublicKey] = field(repr=False)
    app_cert_sn: str | None = None
    root_cert_sn: str | None = None


def parse(
    *, app_private: bytes, alipay: Mapping[str, bytes], app_certificate: bytes | None = None, root: bytes | None = None
) -> AlipayKeys:
    """Parse PEM material. `alipay` holds public keys, or with `root` certificates that must lead to it.

    Raises ConfigInvalid, naming no content: without all of them nothing could be verified.
    """
    private = load_rsa_private(app_private)
    if not alipay:
        raise ConfigInvalid("there is no Alipay key: callbacks could not be verified")
    if len(alipay) > _KEYS_MAX:
        raise ConfigInvalid(f"there are more than {_KEYS_MAX} Alipay keys")
    if app_certificate is None and root is None:
        return AlipayKeys(app_private=private, alipay={name: load_rsa_public(pem) for name, pem in alipay.items()})
    if app_certificate is None or root is None:
        raise ConfigInvalid("certificate mode needs the app's certificate and Alipay's root bundle")
    ours, roots = _certificates(app_certificate), _certificates(root)
    if ours[0].public_key() != private.public_key():
        raise ConfigInvalid("the app's certificate does not belong to its private key")
    keys: dict[str, RSAPublicKey] = {}
    for pem in alipay.values():
        bundle = _certificates(pem)
        key = bundle[0].public_key()
        if not isinstance(key, RSAPublicKey) or not _leads_to(bundle, roots):
            raise ConfigInvalid("an Alipay certificate does not lead to the pinned root")
        keys[certificate_sn(bundle[0])] = key
    return AlipayKeys(
        app_private=private, alipay=keys, app_cert_sn=certificate_sn(ours[0]), root_cert_sn=root_cert_sn(roots)
    )


def load(
    *, app_private_file: Path, alipay_dir: Path, app_certificate_file: Path | None, root_file: Path | None
) -> AlipayKeys:
    """Read mounted key files; `alipay_dir` holds one `<name>.pem` per live key. Raises ConfigInvalid."""
    try:
        return parse(
            app_private=app_private_file.read_bytes(),
            alipay={path.stem: path.read_bytes() for path in sorted(alipay_dir.glob("*.pem"))},
            app_certificate=None if app_certificate_file is None else app_certificate_file.read_bytes(),
            root=None if root_file is None else root_file.read_bytes(),
        )
    except OSError as error:
        raise ConfigInvalid(f"an Alipay key file cannot be read: {type(error).__name__}") from None


def named(content: str, wanted: str) -> str | None:
    """The PEM of a downloaded certificate (base64 of a bundle) when it has the wanted number; its chain is checked when
    it is taken over.
    """
    try:
        pem = base64.b64decode(content, validate=True)
        return pem.decode("ascii") if certificate_sn(_certificates(pem)[0]) == wanted else None
    except (ValueError, ConfigInvalid):
        return None


def certificate_sn(certificate: x509.Certificate) -> str:
    """Alipay's number of a certificate: MD5 of the issuer's name, most specific part first, and the decimal serial."""
    text = f"{certificate.issuer.rfc4514_string()}{certificate.serial_number}"
    return hashlib.md5(text.encode(), usedforsecurity=False).hexdigest()


def root_cert_sn(roots: list[x509.Certificate]) -> str:
    """The numbers of the RSA-signed certificates of the root bundle, joined by `_`."""
    signed = [root for root in roots if root.signature_algorithm_oid.dotted_string.startswith(_RSA_SIGNATURES)]
    return "_".join(certificate_sn(root) for root in signed)


def _certificates(pem: bytes) -> list[x509.Certificate]:
    try:
        return x509.load_pem_x509_certificates(pem)
    except ValueError:
        raise ConfigInvalid("a certificate cannot be read") from None


def _leads_to(bundle: list[x509.Certificate], roots: list[x509.Certificate]) -> bool:
    """Whether each certificate is issued by the next one, and the last by one of the roots."""
    chain = [each for each in bundle if each not in roots]
    if not chain:
        return False
    linked = all(_issued(child, parent) for child, parent in itertools.pairwise(chain))
    return linked and any(_issued(chain[-1], root) for root in roots)


def _issued(child: x509.Certificate, parent: x509.Certificate) -> bool:
    try:
        may_issue = parent.extensions.get_extension_for_class(x509.BasicConstraints).value.ca
        child.verify_directly_issued_by(parent)
    except (ValueError, TypeError, InvalidSignature, x509.ExtensionNotFound):
        return False
    return may_issue
