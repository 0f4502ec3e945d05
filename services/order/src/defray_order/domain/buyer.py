"""Who an order is for: what may be told of a buyer, each field checked and put into one form, so that it is found again."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Final

_ATOM: Final = r"[^\s@\"<>(),:;\\\[\]\x00-\x1f\x7f-\x9f]"
_LABEL: Final = _ATOM.replace("@", "@.")


class LookUp(StrEnum):
    """What a buyer is found and erased by."""

    EMAIL = "email"
    PHONE = "phone"
    CUSTOMER_REF = "customer_ref"


@dataclass(frozen=True, slots=True, kw_only=True)
class Buyer:
    """A buyer in checked form; `repr` shows no field of it, so that none gets into a log."""

    name: str | None = field(default=None, repr=False)
    email: str | None = field(default=None, repr=False)
    phone: str | None = field(default=None, repr=False)
    customer_ref: str | None = field(default=None, repr=False)

    def look_ups(self) -> dict[LookUp, str]:
        """All that it can be found by, in the form it is found in."""
        known = {LookUp.EMAIL: self.email, LookUp.PHONE: self.phone, LookUp.CUSTOMER_REF: self.customer_ref}
        return {kind: normal(kind, value) for kind, value in known.items() if value is not None}


@dataclass(frozen=True, slots=True, kw_only=True)
class WrongField:
    """The field that is not acceptable, and why, in our own words: the value is never told."""

    field: str
    reason: str


def read(
    *, name: str | None = None, email: str | None = None, phone: str | None = None, customer_ref: str | None = None
) -> Buyer | WrongField:
    """A buyer from a request's fields, or the plain name of the first wrong one (`email`; empty when all are missing)."""
    given = {"name": name} | {LookUp.EMAIL: email, LookUp.PHONE: phone, LookUp.CUSTOMER_REF: customer_ref}
    if all(value is None for value in given.values()):
        return WrongField(field="", reason="names nobody")
    for field_name, value in given.items():
        form, reason = _FORMS[field_name]
        if value is not None and form.fullmatch(value) is None:
            return WrongField(field=field_name, reason=reason)
    return Buyer(name=name, email=email, phone=phone, customer_ref=customer_ref)


def normal(kind: LookUp, value: str) -> str:
    """The one form a look-up is made in: addresses in lower case, for no server tells them apart."""
    return value.lower() if kind is LookUp.EMAIL else value


_FORMS: Final[Mapping[str, tuple[re.Pattern[str], str]]] = {
    "name": (re.compile(r"[^\x00-\x1f\x7f-\x9f]{1,100}"), "must be 1 to 100 characters without control characters"),
    # The shape only: whether there is such an address, its server knows.
    LookUp.EMAIL: (
        re.compile(rf"(?=.{{6,254}}\Z){_ATOM}{{1,64}}@(?:{_LABEL}{{1,63}}\.)+{_LABEL}{{2,63}}"),
        "must be an e-mail address",
    ),
    LookUp.PHONE: (re.compile(r"\+[1-9][0-9]{6,14}"), "must be a number in E.164 form: + and 7 to 15 digits"),
    LookUp.CUSTOMER_REF: (re.compile(r"[!-~]{1,64}"), "must be 1 to 64 visible ASCII characters"),
}
