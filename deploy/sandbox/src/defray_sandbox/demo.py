"""`defray demo`: a fresh sandbox, a story told in it, and checks that all of it is true; then it is taken down."""

import hashlib
import shutil
from contextlib import ExitStack
from pathlib import Path

from defray_sandbox import checks
from defray_sandbox.demo_story import Story
from defray_sandbox.doors import Doors, eventually
from defray_sandbox.stack import aot
from defray_sandbox.stack.errors import StackError
from defray_sandbox.stack.local import LocalStack, Options, local_stack
from defray_sandbox.stack.paths import StackPaths, private_folder, stack_paths, sweep_scratch
from defray_sandbox.timeline import Timeline

_WITHIN_S = 15.0


async def run(timeline: Timeline, *, postgres: str | None, kafka: str | None) -> int:
    """Bring a fresh sandbox up, tell the story, check, and take it down; returns 0 when all of it held.

    With servers of the user's own nothing is thrown away: their data and ours must keep fitting together.
    """
    paths = stack_paths()
    sweep_scratch(paths)
    own_servers = postgres is not None or kafka is not None
    if own_servers:
        pair = hashlib.sha256(f"{postgres} {kafka}".encode()).hexdigest()[:8]
        folder = paths.base / f"demo-{paths.uid}-{pair}"
    else:
        folder = private_folder(paths, "demo")
    options = Options(folder=folder, logs=_fresh_logs(paths), postgres=postgres, kafka=kafka)
    with ExitStack() as stack:
        if not own_servers:
            stack.callback(shutil.rmtree, folder, ignore_errors=True)
        async with local_stack(options, timeline.tell) as sandbox, Doors() as doors:
            story = Story(sandbox=sandbox, doors=doors, tell_line=timeline.tell)
            try:
                await story.tell()
                held = await _check(sandbox, doors, timeline)
            except StackError:
                timeline.tell(f"the services' logs are in {options.logs}")
                raise
            timeline.tell("stopping")
    timeline.tell("all of it held" if held else "something did NOT hold; see above")
    if aot.ensure_in_background():
        timeline.tell("making Kafka's start-up cache in the background (once, 15 s); the next start is faster")
    return 0 if held else 1


def _fresh_logs(paths: StackPaths) -> Path:
    logs = paths.log / "demo"
    shutil.rmtree(logs, ignore_errors=True)
    logs.mkdir(parents=True)
    return logs


async def _check(sandbox: LocalStack, doors: Doors, timeline: Timeline) -> bool:
    """Print each check with its figures; return whether all hold."""
    left: dict[str, int] = {}

    async def at_rest() -> bool | None:
        nonlocal left
        left = await checks.undone(sandbox)
        return None if left else True

    try:
        await eventually("everything to come to rest", at_rest, timeout_s=_WITHIN_S)
    except StackError:
        timeline.tell(f"check  still undone: {left}")
    findings = [*await checks.books(sandbox, doors), *await checks.orders(sandbox)]
    findings.append(checks.Finding(what="nothing is pending anywhere", holds=not left, figures=str(left or "")))
    for each in findings:
        timeline.tell(f"check     {'holds' if each.holds else 'FAILS'}: {each.what}  {each.figures}")
    return all(each.holds for each in findings)
