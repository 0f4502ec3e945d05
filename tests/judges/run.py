"""Asks other people's libraries to judge our wire formats, each in an environment of its own.

`python tests/judges/run.py JUDGE VERB` reads one JSON value from standard input and writes the verdict to standard output.
The judges share no environment with us or with each other: their dependencies are theirs (channels.md, decision 10).
A judge that is not there is made from its hashed lock; when that fails, the caller fails.
"""

import fcntl
import hashlib
import json
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

_HERE = Path(__file__).resolve().parent
_ROOT = _HERE.parents[1]
_ENVIRONMENTS = _ROOT / ".venv-judges"
_INSTALL_S_MAX = 300
_VERDICT_S_MAX = 120
JUDGES = ("wechat", "alipay", "standardwebhooks", "containers", "documents")


class JudgeFailedError(Exception):
    """The judge could not be made, or broke down; this is never a verdict."""


def ask(judge: str, verb: str, question: Any) -> Any:  # noqa: ANN401  Both are any JSON.
    """Put a JSON question to a judge and return its JSON verdict.

    Raises:
        JudgeFailedError: there is no verdict.

    """
    command = [environment(judge), str(_HERE / judge / "judge.py"), verb]
    done = subprocess.run(
        command, input=json.dumps(question).encode(), capture_output=True, timeout=_VERDICT_S_MAX, check=False
    )
    if done.returncode != 0:
        raise JudgeFailedError(f"{judge} {verb}: {done.stderr.decode(errors='replace')[-2000:]}")
    return json.loads(done.stdout)


def environment(judge: str) -> str:
    """Path of the interpreter of a judge's environment, made first when it is absent or its lock has changed.

    Raises:
        JudgeFailedError: it could not be made.

    """
    if judge not in JUDGES:
        raise JudgeFailedError(f"no judge {judge}; there are {', '.join(JUDGES)}")
    lock = _HERE / judge / "requirements.lock"
    folder, stamp = _ENVIRONMENTS / judge, hashlib.sha256(lock.read_bytes()).hexdigest()
    python = folder / "bin" / "python"
    _ENVIRONMENTS.mkdir(exist_ok=True)
    with (_ENVIRONMENTS / f"{judge}.lock").open("w") as guard:
        fcntl.flock(guard, fcntl.LOCK_EX)
        made = folder / "made-from"
        if not made.exists() or made.read_text(encoding="ascii") != stamp:
            shutil.rmtree(folder, ignore_errors=True)
            # The set-up knows where uv is and tells it pip's settings, which uv does not read itself.
            uv = [sys.executable, str(_HERE.parents[1] / "deploy" / "bootstrap.py"), "--uv"]
            _make([*uv, "venv", "--quiet", "--python", sys.executable, str(folder)])
            _make([*uv, "pip", "install", "--quiet", "--python", str(python), "--require-hashes", "-r", str(lock)])
            made.write_text(stamp, encoding="ascii")
    return str(python)


def _make(command: list[str]) -> None:
    done = subprocess.run(command, capture_output=True, timeout=_INSTALL_S_MAX, check=False)
    if done.returncode != 0:
        raise JudgeFailedError(f"{' '.join(command[2:5])}: {done.stderr.decode(errors='replace')[-2000:]}")


def main() -> None:
    """Entry point of the command."""
    if len(sys.argv) != 3:
        sys.exit("usage: python tests/judges/run.py JUDGE VERB  < question.json")
    try:
        verdict = ask(sys.argv[1], sys.argv[2], json.load(sys.stdin))
    except JudgeFailedError as error:
        sys.exit(str(error))
    json.dump(verdict, sys.stdout, ensure_ascii=False)


if __name__ == "__main__":
    main()
