"""Operators: who may use the internal port, proven by a signed token (OIDC in production, seeded in the sandbox)."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import Final

import jwt

from defray_kernel.errors import ConfigInvalid

AUDIENCE: Final = "defray-operator"
_ALGORITHMS: Final = {"OKP": "EdDSA", "RSA": "RS256"}
_LEEWAY_S: Final = 30
_TOKEN_CHARACTERS_MAX: Final = 4_096


class Role(StrEnum):
    """What an operator may do; `operator` may also all that `viewer` may, `finance` stands beside both."""

    VIEWER = "viewer"
    OPERATOR = "operator"
    FINANCE = "finance"


@dataclass(frozen=True, slots=True, kw_only=True)
class Operator:
    """A person, as the token's issuer names them."""

    subject: str
    roles: frozenset[Role]

    def may(self, role: str) -> bool:
        """Whether this operator has the role, or one that includes it."""
        return Role(role) in self.roles or (role == Role.VIEWER and bool(self.roles))


class OperatorTokens:
    """Verifies operator tokens against a mounted key set. Raises ConfigInvalid when the set holds no usable key."""

    def __init__(self, key_set: bytes, *, issuer: str, audience: str = AUDIENCE) -> None:
        self._issuer, self._audience = issuer, audience
        try:
            documents = json.loads(key_set)["keys"]
            self._keys: Mapping[str, tuple[jwt.PyJWK, str]] = {
                d["kid"]: (jwt.PyJWK(d, algorithm=_ALGORITHMS[d["kty"]]), _ALGORITHMS[d["kty"]]) for d in documents
            }
        except (ValueError, KeyError, TypeError, jwt.PyJWTError):
            raise ConfigInvalid(
                "config_invalid: operator key set is not a JWKS of Ed25519 or RSA keys with kid"
            ) from None
        if not self._keys or len(self._keys) != len(documents):
            raise ConfigInvalid("config_invalid: operator key set is empty or names a kid twice")

    @classmethod
    def from_file(cls, path: Path, *, issuer: str) -> "OperatorTokens":
        """Read the key set from a mounted file."""
        try:
            return cls(path.read_bytes(), issuer=issuer)
        except OSError:
            raise ConfigInvalid("config_invalid: operator key set file cannot be read") from None

    def verify(self, token: str) -> Operator | None:
        """The operator, or None for any token that is not ours, not now, or names no role."""
        if len(token) > _TOKEN_CHARACTERS_MAX:
            return None
        try:
            # The key id picks the key, and the key its algorithm: what the header claims about algorithms is not believed.
            key, algorithm = self._keys[jwt.get_unverified_header(token)["kid"]]
            claims = jwt.decode(
                token,
                key,
                algorithms=[algorithm],
                issuer=self._issuer,
                audience=self._audience,
                leeway=_LEEWAY_S,
                options={"require": ["exp", "iat", "sub", "iss", "aud"]},
            )
            known = {role.value for role in Role}
            roles = frozenset(Role(role) for role in claims["roles"] if role in known)
        except (jwt.PyJWTError, KeyError, TypeError, ValueError):
            return None
        subject = claims["sub"]
        return (
            Operator(subject=subject, roles=roles)
            if roles and isinstance(subject, str) and len(subject) <= 190
            else None
        )
