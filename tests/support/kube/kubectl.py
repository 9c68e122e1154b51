"""A real kubectl, with a home of its own."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

from support import helm


class Kubectl:
    """Runs kubectl as whoever the kubeconfig says."""

    def __init__(self, kubeconfig: Path, home: Path) -> None:
        self._kubeconfig = kubeconfig
        self._home = home

    def __call__(self, *arguments: str, stdin: str | None = None, check: bool = True) -> str:
        """Return what it writes. Raises CalledProcessError, which says what it complains of."""
        done = self.run(*arguments, stdin=stdin)
        if check and done.returncode:
            raise AssertionError(f"kubectl {' '.join(arguments)}: {done.stderr}")
        return done.stdout

    def run(self, *arguments: str, stdin: str | None = None) -> subprocess.CompletedProcess[str]:
        """Run it, whatever comes of it."""
        return subprocess.run(
            [str(helm.program("kubectl")), "--kubeconfig", str(self._kubeconfig), *arguments],
            env={"HOME": str(self._home), "PATH": os.environ.get("PATH", "")},
            input=stdin,
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )
