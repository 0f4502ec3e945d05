"""Decides where the sandbox keeps its data, so that root, ordinary users and several checkouts never share a folder."""

import hashlib
import os
import secrets
import shutil
import stat
from dataclasses import dataclass
from pathlib import Path

from defray_sandbox.stack.errors import StackError
from defray_sandbox.stack.processes import FileLock

CHECKOUT = Path(__file__).resolve().parents[5]
"""The root of the repository this package was installed from (the installation is editable)."""
RUN_LOCK = "run.lock"
"""Held by the sandbox that runs in a folder."""

_HELD = "held.lock"


@dataclass(frozen=True, slots=True, kw_only=True)
class StackPaths:
    """The folders of one checkout and one user.

    `base` is `var/` of the checkout, or a folder under `/var/tmp` when the servers could not enter or write that one.
    `stack` holds the long-lived sandbox, `scratch` the private servers of tests and measurements, `tools` what is shared.
    """

    base: Path
    uid: int

    @property
    def stack(self) -> Path:
        return self.base / f"stack-{self.uid}"

    @property
    def scratch(self) -> Path:
        return self.base / f"scratch-{self.uid}"

    @property
    def tools(self) -> Path:
        return self.base / f"tools-{self.uid}"

    @property
    def log(self) -> Path:
        return self.base / "log"


def stack_paths(checkout: Path = CHECKOUT) -> StackPaths:
    """Return (and create) the data folder for `checkout` and the current user.

    Raises `StackError` when the fall-back folder belongs to somebody else.
    """
    uid = os.getuid()
    base = checkout / "var"
    if not _usable(base, uid):
        digest = hashlib.sha256(str(checkout).encode()).hexdigest()[:12]
        base = Path(f"/var/tmp/defray-{uid}-{digest}")  # noqa: S108 -- checked below: ours, and not a link.
        base.mkdir(mode=0o755, exist_ok=True)
        found = base.lstat()
        if not stat.S_ISDIR(found.st_mode) or found.st_uid != uid or found.st_mode & 0o022:
            message = f"{base} exists and is not a folder of this user alone"
            raise StackError(message, "remove it, or move the checkout to a folder that others may enter")
    paths = StackPaths(base=base, uid=uid)
    for folder in (paths.stack, paths.scratch, paths.tools, paths.log):
        folder.mkdir(parents=True, exist_ok=True)
        if folder != paths.log:
            folder.chmod(0o755)
    return paths


def reachable_by_others(path: Path) -> bool:
    """Tell whether every folder down to `path` lets other users pass (root's servers run as `nobody`)."""
    return all(folder.stat().st_mode & stat.S_IXOTH for folder in (path, *path.parents) if folder.is_dir())


def private_folder(paths: StackPaths, purpose: str) -> Path:
    """Make a new folder under `scratch` for this process; the caller removes it, a later run removes what a crash left."""
    name = f"{purpose}-{secrets.token_hex(4)}"
    partial = paths.scratch / f".{name}"
    partial.mkdir(mode=0o755)
    partial.chmod(0o755)
    # Never released: the lock ends with this process and tells other runs that the folder is in use.
    FileLock(partial / _HELD).try_acquire()
    return partial.rename(paths.scratch / name)


def sweep_scratch(paths: StackPaths) -> None:
    """Remove the private folders whose process has ended."""
    for folder in paths.scratch.iterdir():
        lock = FileLock(folder / _HELD)
        if (folder / _HELD).exists() and not folder.name.startswith(".") and lock.try_acquire():
            shutil.rmtree(folder, ignore_errors=True)
            lock.release()


def in_use(paths: StackPaths) -> list[Path]:
    """Return the folders that a running sandbox, test or measurement works in."""
    used = []
    for lock_file in (paths.stack / RUN_LOCK, *paths.scratch.glob(f"*/{_HELD}")):
        lock = FileLock(lock_file)
        if lock_file.exists() and not lock.try_acquire():
            used.append(lock_file.parent)
        lock.release()
    return used


def _usable(base: Path, uid: int) -> bool:
    parent = base if base.exists() else base.parent
    if not os.access(parent, os.W_OK | os.X_OK) or parent.stat().st_uid not in {uid, base.parent.stat().st_uid}:
        return False
    return uid != 0 or reachable_by_others(parent)
