"""A service's image without Docker: the files its Dockerfile copies and the packages of its lock, in folders of their own."""

import dataclasses
import fcntl
import hashlib
import re
import shutil
import subprocess
import sys
from pathlib import Path

from deploy import bootstrap
from tests.architecture.sources import ROOT

ENVIRONMENTS = ROOT / ".venv-services"
INSTALL_S_MAX = 300


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Dockerfile:
    """What a test needs to know of a Dockerfile: sources copied from the checkout with their places, and the environment."""

    copies: dict[str, str]
    environment: dict[str, str]
    entrypoint: str


def read_dockerfile(path: Path) -> Dockerfile:
    """The instructions of a Dockerfile, continued lines joined."""
    text = path.read_text(encoding="utf-8").replace("\\\n", " ")
    copies = re.findall(r"^COPY (?!--from)(\S+) (\S+)$", text, re.MULTILINE)
    pairs = [
        pair for line in re.findall(r"^ENV (.+)$", text, re.MULTILINE) for pair in re.findall(r"(\w+)=(\S+)", line)
    ]
    entrypoint = re.search(r"^ENTRYPOINT (.+)$", text, re.MULTILINE)
    assert entrypoint
    return Dockerfile(copies=dict(copies), environment=dict(pairs), entrypoint=entrypoint[1])


def unpack(service: str, target: Path) -> Dockerfile:
    """Copy into `target` what the image of a service holds below /app; nothing else of the checkout is there."""
    dockerfile = read_dockerfile(ROOT / "services" / service / "Dockerfile")
    for source, place in dockerfile.copies.items():
        if not place.startswith("/app/"):
            continue
        copied = target / place.removeprefix("/app/")
        copied.parent.mkdir(parents=True, exist_ok=True)
        if (ROOT / source).is_dir():
            shutil.copytree(ROOT / source, copied, ignore=shutil.ignore_patterns("__pycache__"))
        else:
            shutil.copy(ROOT / source, copied)
    return dockerfile


def interpreter(service: str) -> Path:
    """The Python of an environment that holds the service's lock and nothing else; made when absent or out of date."""
    lock = ROOT / "services" / service / "requirements.lock"
    folder, stamp = ENVIRONMENTS / service, hashlib.sha256(lock.read_bytes()).hexdigest()
    python, made = folder / "bin/python", folder / "made-from"
    ENVIRONMENTS.mkdir(exist_ok=True)
    with (ENVIRONMENTS / f"{service}.lock").open("w") as guard:
        fcntl.flock(guard, fcntl.LOCK_EX)
        if not made.exists() or made.read_text(encoding="ascii") != stamp:
            shutil.rmtree(folder, ignore_errors=True)
            environment = bootstrap.uv_environment()
            uv = str(bootstrap.find_uv(environment))
            install = [uv, "pip", "install", "--quiet", "--python", str(python), "--no-deps", "--require-hashes"]
            for command in (
                [uv, "venv", "--quiet", "--python", sys.executable, str(folder)],
                [*install, "-r", str(lock)],
            ):
                subprocess.run(command, env=environment, check=True, timeout=INSTALL_S_MAX)
            made.write_text(stamp, encoding="ascii")
    return python
