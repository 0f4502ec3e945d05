"""Makes the twin's tables in an empty database, and its one merchant."""

import asyncio
import hashlib

from sqlalchemy import text

from tests.bench.textbook import base, notifier, order, payment, settlement

SERVICES = {"order": order, "payment": payment, "settlement": settlement, "notifier": notifier}
MERCHANT_ID = "mer_textbook"


async def create(dsn: str) -> None:
    """Make schemas and tables."""
    engine = base.engine_for(dsn)
    async with engine.begin() as connection:
        for schema in base.SCHEMAS:
            await connection.execute(text(f"CREATE SCHEMA {schema}"))
        for module in SERVICES.values():
            await connection.run_sync(module.SERVICE.tables.base.metadata.create_all)
    await engine.dispose()


async def seed_merchant(dsn: str, *, api_key: str, endpoint_url: str, secret: bytes) -> None:
    """The merchant as order service and notifier know it."""
    engine = base.engine_for(dsn)
    async with base.async_sessionmaker(engine)() as session, session.begin():
        digest = hashlib.sha256(api_key.encode()).hexdigest()
        session.add(order.Merchant(id=MERCHANT_ID, name="Bench", api_key_sha256=digest))
        session.add(notifier.Endpoint(id="end_1", merchant_id=MERCHANT_ID, url=endpoint_url, secret=secret))
        session.add_all(settlement.first_accounts(MERCHANT_ID))
    await engine.dispose()


if __name__ == "__main__":
    import sys

    asyncio.run(create(sys.argv[1]))
