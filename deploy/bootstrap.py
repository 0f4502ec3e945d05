"""Makes `.venv` from the hashed lock, once per change of it; needs nothing but a bare Python 3.11 or newer.

Run by `make setup` before everything else: with nothing changed it compares one stamp and ends. `--lock` writes the
locks anew; `--uv …` runs uv with pip's settings, for what makes environments of its own.
"""
# ruff: noqa: INP001, S603, TID251 -- stands alone and runs before there is any package, tool or settings module.

import configparser
import fcntl
import hashlib
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Iterable
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
VENV = ROOT / ".venv"
PYTHON = VENV / "bin" / "python"
TOOLS = ROOT / ".tools"
STAMP = VENV / "defray.stamp"
DEV_LOCK = ROOT / "deploy" / "requirements" / "dev.lock"
UV_LOCK = ROOT / "deploy" / "requirements" / "bootstrap.lock"
SERVICES = ("order", "payment", "settlement", "notifier")
PACKAGES = ("shared", *(f"services/{name}" for name in SERVICES), "deploy/sandbox")
INSTALL_TIMEOUT_S = 900


def main() -> None:
    if sys.argv[1:2] == ["--uv"]:
        environment = uv_environment()
        uv = find_uv(environment)
        os.execve(uv, [str(uv), *sys.argv[2:]], environment)  # noqa: S606 -- becomes uv.
    if sys.argv[1:2] == ["--lock"]:
        environment = uv_environment()
        write_locks(find_uv(environment), environment)
        return
    # Two terminals may run make at once: the second waits, then finds everything done.
    with (ROOT / ".setup.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        wanted = fingerprint()
        if STAMP.exists() and STAMP.read_text() == wanted:
            return
        started = time.monotonic()
        make_environment()
        STAMP.write_text(wanted)
        say(f"environment ready in {time.monotonic() - started:.0f} s")


def fingerprint() -> str:
    """Everything that makes an environment right: what it holds, the Python it was made by, and where it stands."""
    digest = hashlib.sha256()
    for path in (DEV_LOCK, UV_LOCK, Path(__file__), *(ROOT / package / "pyproject.toml" for package in PACKAGES)):
        digest.update(hashlib.sha256(path.read_bytes()).digest())
    version = ".".join(map(str, sys.version_info[:3]))
    return f"{digest.hexdigest()} python {version} at {ROOT}\n"


def make_environment() -> None:
    STAMP.unlink(missing_ok=True)
    environment = uv_environment()
    uv = find_uv(environment)
    if not usable_venv():
        shutil.rmtree(VENV, ignore_errors=True)
        run([uv, "venv", "--quiet", "--python", sys.executable, VENV], environment, "the virtual environment")
    say("installing the locked packages (15 s the first time on a fast line)")
    sync = [uv, "pip", "sync", "--quiet", "--python", PYTHON, "--require-hashes", "--compile-bytecode", DEV_LOCK]
    run(sync, environment, "the locked packages")
    editable = [part for package in PACKAGES for part in ("--editable", ROOT / package)]
    # What builds our own packages came with the lock, so this step asks no registry anything.
    own = [uv, "pip", "install", "--quiet", "--python", PYTHON, "--offline", "--no-deps", "--no-build-isolation"]
    run([*own, *editable], environment, "Defray's own packages")
    sources = [ROOT / package / "src" for package in PACKAGES]
    # Sixteen processes that each compile what they import would cost ten seconds.
    run([PYTHON, "-m", "compileall", "-q", "-j0", *sources], environment, "the byte code")


def usable_venv() -> bool:
    """A half-made folder, one copied from another place or one of another Python is made anew."""
    if not PYTHON.exists():
        return False
    probe = "import sys; print(sys.prefix, *sys.version_info[:3])"
    told = subprocess.run([PYTHON, "-c", probe], capture_output=True, text=True, check=False)
    return told.stdout.split() == [str(VENV), *map(str, sys.version_info[:3])]


def find_uv(environment: dict[str, str]) -> Path:
    """Find or fetch uv: it installs by the lock in a tenth of pip's time."""
    fetched = (TOOLS / "venv" / "bin" / "uv", TOOLS / "packages" / "bin" / "uv")
    for candidate in (shutil.which("uv"), VENV / "bin" / "uv", *fetched):
        if candidate and attempt([str(candidate), "pip", "sync", "--help"], environment) is None:
            return Path(candidate)
    say("fetching uv, which installs the rest")
    shutil.rmtree(TOOLS, ignore_errors=True)
    hashed = ["-m", "pip", "install", "--quiet", "--disable-pip-version-check", "--require-hashes", "-r", str(UV_LOCK)]
    # Debian's python3 without python3-venv leaves a half-made folder behind, so success is what counts, not the folder.
    problem = attempt([sys.executable, "-m", "venv", str(TOOLS / "venv")], environment)
    if problem is None:
        problem = attempt([str(TOOLS / "venv" / "bin" / "python"), *hashed], environment)
        if problem is None:
            return fetched[0]
    shutil.rmtree(TOOLS, ignore_errors=True)
    problem = attempt([sys.executable, *hashed, "--target", str(TOOLS / "packages")], environment)
    if problem is None:
        return fetched[1]
    shutil.rmtree(TOOLS, ignore_errors=True)
    if "No module named pip" in problem:
        what = "neither uv nor Python's venv and pip modules are there"
        raise failure(what, "install one of them; on Debian and Ubuntu: apt-get install python3-venv")
    raise failure(f"uv could not be fetched: {problem}", "check the connection or pip's index setting, or install uv")


def uv_environment() -> dict[str, str]:
    """Return our environment with pip's settings told to uv, which does not read them."""
    environment = dict(os.environ)
    environment.pop("VIRTUAL_ENV", None)
    environment.pop("PYTHONPATH", None)
    told = pip_settings()
    for name, variable in (
        ("index-url", "UV_DEFAULT_INDEX"),
        ("extra-index-url", "UV_INDEX"),
        ("find-links", "UV_FIND_LINKS"),
        ("trusted-host", "UV_INSECURE_HOST"),
        ("cert", "SSL_CERT_FILE"),
        ("proxy", "ALL_PROXY"),
    ):
        if value := told.get(name):
            environment.setdefault(variable, value)
    if told.get("no-index", "").lower() in {"1", "true", "yes", "on"}:
        environment.setdefault("UV_NO_INDEX", "1")
    environment.setdefault("UV_HTTP_TIMEOUT", "60")
    return environment


def pip_settings() -> dict[str, str]:
    """Return pip's settings as pip finds them: machine, user, `PIP_CONFIG_FILE`, then `PIP_…` variables."""
    home = Path(os.environ.get("HOME") or "/nonexistent")
    config_home = Path(os.environ.get("XDG_CONFIG_HOME") or home / ".config")
    files = [Path("/etc/pip.conf"), home / ".pip" / "pip.conf", config_home / "pip" / "pip.conf"]
    if named := os.environ.get("PIP_CONFIG_FILE"):
        files = [] if named == os.devnull else [*files, Path(named)]
    parser = configparser.RawConfigParser()
    parser.read([file for file in files if os.access(file, os.R_OK)])
    found: dict[str, str] = {}
    for section in ("global", "install"):
        if parser.has_section(section):
            found |= {name.replace("_", "-"): " ".join(value.split()) for name, value in parser.items(section)}
    for name, value in os.environ.items():
        if name.startswith("PIP_") and value:
            found[name.removeprefix("PIP_").lower().replace("_", "-")] = value
    return found


def write_locks(uv: Path, environment: dict[str, str]) -> None:
    """Write every lock anew: all for the checkout, the closure of each service with the kernel's, and uv's own."""
    folder = DEV_LOCK.parent
    # No header and no index: a lock must not tell on whose network it was made.
    compile_ = [
        uv,
        "pip",
        "compile",
        "--quiet",
        "--universal",
        "--generate-hashes",
        "--no-emit-index-url",
        "--no-header",
    ]
    compile_ += ["--python-version", "3.11"]
    if "--upgrade" in sys.argv[1:]:
        compile_.append("--upgrade")
    run([*compile_, folder / "dev.in", "-o", DEV_LOCK], environment, DEV_LOCK.name)
    run([*compile_, folder / "bootstrap.in", "-o", UV_LOCK], environment, UV_LOCK.name)
    for name in SERVICES:
        lock = ROOT / "services" / name / "requirements.lock"
        wanted = sorted({*dependencies("shared"), *dependencies(f"services/{name}")})
        # The checkout's lock constrains it: a service is shipped with the very versions it was tested with.
        run([*compile_, "--no-annotate", "-c", DEV_LOCK, "-", "-o", lock], environment, str(lock), "\n".join(wanted))
    say("locks written")


def dependencies(package: str) -> Iterable[str]:
    import tomllib  # noqa: PLC0415 -- needed by maintainers only.

    project = tomllib.loads((ROOT / package / "pyproject.toml").read_text())["project"]
    return [each for each in project["dependencies"] if not each.startswith("defray-")]


def attempt(command: list[str], environment: dict[str, str]) -> str | None:
    """Run `command`; return None when it succeeded, else the last thing it said."""
    try:
        done = subprocess.run(
            command, env=environment, capture_output=True, text=True, check=False, timeout=INSTALL_TIMEOUT_S
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        return str(error)
    said = (done.stderr.strip() or done.stdout.strip() or f"exit code {done.returncode}").splitlines()
    return None if done.returncode == 0 else said[-1]


def run(command: list[object], environment: dict[str, str], what: str, text: str | None = None) -> None:
    argv = [str(part) for part in command]
    done = subprocess.run(
        argv, env=environment, input=text, capture_output=True, text=True, check=False, timeout=INSTALL_TIMEOUT_S
    )
    if done.returncode != 0:
        sys.stderr.write(done.stdout + done.stderr)
        raise failure(
            f"{what} could not be made (see above)", "check the connection and the space on disk, then run make again"
        )


def say(line: str) -> None:
    sys.stderr.write(f"setup: {line}\n")


def failure(what: str, remedy: str) -> SystemExit:
    return SystemExit(f"setup: {what}\nsetup: {remedy}")


if __name__ == "__main__":
    main()
