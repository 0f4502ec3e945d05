"""What docker-compose.yml runs once before the services: secrets into volumes, roles into Postgres, a token for operators."""

import argparse
import asyncio
import os
import secrets
import sys
from pathlib import Path

from defray_sandbox.stack.credentials import Credentials, make_credentials, write_private
from defray_sandbox.stack.provision import SERVICES, Passwords, provision, stored_passwords

FOLDER = Path("/secrets")
POSTGRES = "postgres:5432"
DATABASE = "defray"


def make_secrets(folder: Path) -> Credentials:
    """Make whatever is missing in `folder`; each service's subfolder is a volume that only this service mounts."""
    made = make_credentials(folder)
    passwords = stored_passwords(made.passwords)
    superuser = folder / "postgres" / "password"
    superuser.parent.mkdir(exist_ok=True, mode=0o700)
    if not superuser.exists():
        write_private(superuser, secrets.token_urlsafe(24))
    for service in SERVICES:
        own = folder / service
        write_private(own / "operators.jwks.json", made.operator_jwks.read_text())
        _write_pgpass(own, f"defray_{service}", passwords)
        # Apart, because only the migration's container mounts it: the running service must not be able to own its schema.
        owner = folder / f"{service}-owner"
        owner.mkdir(exist_ok=True, mode=0o700)
        _write_pgpass(owner, f"defray_{service}_owner", passwords)
    write_private(folder / "order" / "ids.env", f"DEFRAY_ORDER_TOKEN_KEY_ID={made.order_token_key_id()}\n")
    write_private(
        folder / "payment" / "ids.env", f"DEFRAY_PAYMENT_WECHAT_MERCHANT_SERIAL={made.wechat_merchant_serial()}\n"
    )
    return made


def main(arguments: list[str]) -> int:
    """`secrets`, `roles` or `token SUBJECT ROLE…`; returns the exit code."""
    parser = argparse.ArgumentParser(prog="python -m defray_sandbox.containers", description=__doc__)
    verbs = parser.add_subparsers(dest="verb", required=True)
    verbs.add_parser("secrets", help="make the secrets that are missing")
    verbs.add_parser("roles", help="make database, schemas and roles, as often as one likes")
    token = verbs.add_parser("token", help="print an operator's token, good for an hour")
    token.add_argument("subject")
    token.add_argument("roles", nargs="+", choices=("viewer", "operator", "finance"))
    chosen = parser.parse_args(arguments)
    os.umask(0o077)
    match chosen.verb:
        case "secrets":
            make_secrets(FOLDER)
        case "roles":
            password = (FOLDER / "postgres" / "password").read_text()
            admin_dsn = f"postgresql://postgres:{password}@{POSTGRES}/postgres"
            asyncio.run(provision(admin_dsn, stored_passwords(FOLDER / "database.json"), database=DATABASE))
        case "token":
            print(Credentials(folder=FOLDER).operator_token(chosen.subject, chosen.roles))
        case _:
            parser.error(f"unknown verb {chosen.verb}")
    return 0


def _write_pgpass(folder: Path, role: str, passwords: Passwords) -> None:
    write_private(folder / "pgpass", f"*:*:{DATABASE}:{role}:{passwords.by_role[role]}\n")


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
