"""`defray parked`: shows and moves parked keys of the running sandbox by each service's own verbs."""

import subprocess
import sys
from collections.abc import Sequence

from defray_sandbox.stack.environment import Site

_TIMEOUT_S = 60


def run_verb(site: Site, service: str, arguments: Sequence[str]) -> tuple[int, str]:
    """Run `parked <arguments>` of `service`; returns its exit code and what it said."""
    done = subprocess.run(
        [sys.executable, "-m", f"defray_{service}", "parked", *arguments],
        env=site.service_environment(service), capture_output=True, text=True, check=False, timeout=_TIMEOUT_S,
    )  # fmt: skip
    return done.returncode, (done.stdout if done.returncode == 0 else done.stdout + done.stderr).strip()
