"""One sandbox for all end-to-end tests: all four services as processes, the channel, and two merchants."""

import asyncio
import shutil
from collections.abc import AsyncIterator

import aiohttp
import pytest_asyncio
from aiohttp import web

from defray_sandbox.doors import Doors
from defray_sandbox.seed import seed_merchants
from defray_sandbox.stack.local import Options, local_stack
from defray_sandbox.stack.paths import private_folder, stack_paths, sweep_scratch
from tests.e2e.world import Receiver, World


@pytest_asyncio.fixture(scope="session", loop_scope="session")
async def world() -> AsyncIterator[World]:
    """A fresh sandbox with its two merchants; taken down after the last test."""
    paths = stack_paths()
    sweep_scratch(paths)
    folder = private_folder(paths, "e2e")
    try:
        timeout = aiohttp.ClientTimeout(total=40)
        options = Options(folder=folder, logs=folder / "log")
        async with (
            local_stack(options, print) as stack,
            Doors() as doors,
            aiohttp.ClientSession(timeout=timeout) as http,
        ):
            one, other = await seed_merchants(stack.site, doors)
            yield World(stack=stack, doors=doors, http=http, one=one, other=other)
    finally:
        await asyncio.to_thread(shutil.rmtree, folder, ignore_errors=True)


@pytest_asyncio.fixture(scope="session", loop_scope="session")
async def receiver(world: World) -> AsyncIterator[tuple[Receiver, str]]:
    """An endpoint of merchant one that keeps raw deliveries, with its signing secret."""
    kept = Receiver()
    app = web.Application()
    app.router.add_post("/hook", kept.take)
    runner = web.AppRunner(app, access_log=None, shutdown_timeout=1)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    url = f"http://127.0.0.1:{runner.addresses[0][1]}/hook"
    answer = await world.ask(
        "POST",
        world.url("notifier", "/v1/webhook-endpoints"),
        by=world.one.api_key,
        body={"url": url, "event_types": ["*"]},
    )
    assert answer.status == 201, answer
    yield kept, answer.body["secret"]
    await runner.cleanup()
