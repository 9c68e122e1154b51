"""The operator as the chart installs it: a real release, and a process with that pod's rights.

``install`` is helm's; the pods that the Deployment makes are faked by the fake kubelet. ``start``
runs the Deployment's own command on this machine with a kubeconfig that holds nothing but a token
of the chart's ServiceAccount, so a right that the chart forgets is refused by the server.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import urllib.request
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

import yaml

from support import helm, processes
from support.kube.api import Object
from support.kube.audit import Request
from support.kube.control_plane import ControlPlane
from support.ports import free_port
from support.waiting import wait_for

CHART: Final = Path(__file__).parents[3] / "charts" / "tidegate"
READY_S: Final = 40.0
STOP_S: Final = 20.0
_FAILURES: Final = ("Traceback", '"level": "error"', '"level":"error"')
#: What kopf calls an error though the server has only asked it to come again a second later, as it
#: does when a definition has just been changed.
_COMES_AGAIN: Final = ("will retry: ", "status=429")


class OperatorProcess:
    """See the module's docstring. Starting and stopping may be repeated; the log goes on."""

    def __init__(
        self,
        plane: ControlPlane,
        directory: Path,
        namespace: str,
        release: str = "tidegate",
        chart: Path = CHART,
    ) -> None:
        self.plane = plane
        self.namespace = namespace
        self.release = release
        self.chart = chart
        self.directory = directory
        directory.mkdir(parents=True, exist_ok=True)
        self.log = directory / "operator.log"
        #: Helm's major version.
        self.helm_major = 4
        #: Where the operator's package is, if it is not this one.
        self.package: Path | None = None
        self._process: subprocess.Popen[bytes] | None = None
        self._mark = 0
        #: How far the log and the audit log have been looked at.
        self._checked = (0, 0)
        self._user = ""
        # The broker of that name has the same label.
        self._selector = (
            f"app.kubernetes.io/instance={release},app.kubernetes.io/component=operator"
        )

    # helm

    def helm(self, *arguments: str | Path, check: bool = True) -> subprocess.CompletedProcess[str]:
        """Run helm as the cluster's admin."""
        admin = self.plane.kubeconfig("admin")
        where = ("--kubeconfig", admin)
        done = helm.run(self.directory, *arguments, *where, check=False, major=self.helm_major)
        if check and done.returncode:
            raise AssertionError(f"helm {' '.join(map(str, arguments))}: {done.stderr}")
        return done

    def install(
        self, values: Mapping[str, Any] | None = None, *arguments: str, verb: str = "install"
    ) -> str:
        """Install the chart (or ``verb="upgrade"`` it) and wait for it; return helm's answer."""
        file = self.directory / "values.yaml"
        file.write_text(yaml.safe_dump(dict(values or {})))
        return self.helm(
            *(verb, self.release, self.chart, "--namespace", self.namespace, "--values", file),
            *("--create-namespace", "--wait", "--timeout", "50s", *arguments),
        ).stdout

    def uninstall(self) -> str:
        """Uninstall the release; return helm's answer."""
        where = ("--namespace", self.namespace)
        return self.helm("uninstall", self.release, *where, "--wait", "--timeout", "50s").stdout

    def deployment(self) -> Object:
        """Return the operator's Deployment as the server has it."""
        (found,) = self.plane.api.listed("Deployment", self.namespace, self._selector)
        return found

    @property
    def account(self) -> str:
        """The ServiceAccount of the operator's pods."""
        return str(self.deployment()["spec"]["template"]["spec"]["serviceAccountName"])

    @property
    def user(self) -> str:
        """Who the operator is to the API server; who it was, if the release has gone."""
        return self._user or f"system:serviceaccount:{self.namespace}:{self.account}"

    # The process

    def start(self, *more: str, wait: bool = True) -> None:
        """Run what the Deployment says; ``more`` are arguments that it does not have."""
        assert self._process is None, "it runs already"
        pod = self.deployment()["spec"]["template"]["spec"]
        (container,) = pod["containers"]
        environment = {one["name"]: self._value(one) for one in container.get("env") or []}
        command = [*container["command"], *container["args"]]
        command = [_expanded(part, environment) for part in command]
        assert command[0] == "python"
        self._port = free_port()
        command += ["--admin-address", "127.0.0.1", "--admin-port", str(self._port), *more]
        self._ready_path = container["readinessProbe"]["httpGet"]["path"]
        token = self.plane.api.token(self.namespace, self.account)
        self._user = f"system:serviceaccount:{self.namespace}:{self.account}"
        kubeconfig = self.plane.kubeconfig(f"operator-{self.namespace}", token)
        self._mark = self.plane.audit.mark()
        environment["KUBECONFIG"] = str(kubeconfig)
        if self.package is not None:
            environment["PYTHONPATH"] = str(self.package)
        with self.log.open("ab") as log:
            self._process = processes.start(
                [sys.executable, *command[1:]],
                cwd=self.directory,
                env=_own_environment() | environment,
                stdout=log,
                stderr=subprocess.STDOUT,
            )
        if wait:
            self.wait_until_ready()

    def log_in(self) -> Path:
        """Write a new token into the operator's kubeconfig, as a kubelet does every hour."""
        token = self.plane.api.token(self.namespace, self.account)
        return self.plane.kubeconfig(f"operator-{self.namespace}", token)

    def wait_until_ready(self) -> None:
        """Wait until it says so, as the pod's probe would."""
        wait_for(self._is_ready, READY_S, "the operator is ready")

    def stop(self) -> int:
        """End it with SIGTERM, as a kubelet does; return its exit code."""
        return self._end(signal.SIGTERM)

    def kill(self) -> None:
        """End it at once."""
        self._end(signal.SIGKILL)

    @property
    def is_running(self) -> bool:
        """Whether it was started and has not been ended."""
        return self._process is not None

    def rss_bytes(self) -> int:
        """Return how much memory it has."""
        assert self._process is not None
        pages = Path(f"/proc/{self._process.pid}/statm").read_text().split()[1]
        return int(pages) * os.sysconf("SC_PAGE_SIZE")

    def cpu_s(self) -> float:
        """Return how much processor time it has used."""
        assert self._process is not None
        words = Path(f"/proc/{self._process.pid}/stat").read_text().rpartition(")")[2].split()
        return (int(words[11]) + int(words[12])) / os.sysconf("SC_CLK_TCK")

    def _end(self, how: signal.Signals) -> int:
        process, self._process = self._process, None
        assert process is not None, "it does not run"
        process.send_signal(how)
        try:
            return process.wait(STOP_S)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
            raise AssertionError(f"it does not end: {self.log_text()[-2000:]}") from None

    def _is_ready(self) -> bool:
        assert self._process is not None
        if self._process.poll() is not None:
            raise AssertionError(f"the operator has ended: {self.log_text()[-3000:]}")
        try:
            self.page(self._ready_path)
        except OSError:
            return False
        return True

    def page(self, path: str) -> str:
        """Return a page of its admin port. Raises OSError, for a status of 400 and above too."""
        with urllib.request.urlopen(f"http://127.0.0.1:{self._port}{path}", timeout=5) as answer:
            return str(answer.read().decode())

    def _value(self, variable: Object) -> str:
        if "value" in variable:
            return str(variable["value"])
        path = variable["valueFrom"]["fieldRef"]["fieldPath"]
        return {"metadata.namespace": self.namespace, "metadata.name": "operator-0"}[path]

    # What it has done

    def log_text(self) -> str:
        """Return everything it has written so far."""
        return self.log.read_text(errors="replace") if self.log.exists() else ""

    def log_lines(self, message: str) -> list[Object]:
        """Return the records with a message."""
        found = []
        for line in self.log_text().splitlines():
            try:
                record = json.loads(line)
            except ValueError:
                continue
            if record.get("message") == message:
                found.append(record)
        return found

    def refused(self, mark: int = 0) -> list[Request]:
        """Return the requests that were refused because a right was missing."""
        return [one for one in self.plane.audit.since(mark, user=self.user) if one.is_forbidden]

    def check(self, allowed: str = "", *, forbidden: bool = False) -> None:
        """Assert that since the last check no right was missing, and nothing has failed in a way
        that nobody thought of: not lines with ``allowed`` in them, nor, with ``forbidden``, a
        server that says so because it has only just started and knows no rights yet."""
        began, self._checked = self._checked, (len(self.log_text()), self.plane.audit.mark())
        text = self.log_text()[began[0] :]
        found = [
            line
            for line in text.splitlines()
            if any(one in line for one in _FAILURES)
            and not all(one in line for one in _COMES_AGAIN)
            and not (allowed and allowed in line)
        ]
        assert not found, "\n".join(["the operator's log has failures:", *found])[-6000:]
        refused = [f"{one}: {one.path}" for one in self.refused(began[1])]
        assert forbidden or not refused, refused


def _own_environment() -> dict[str, str]:
    """Return of our environment what a program needs, and nothing about clusters."""
    return {key: value for key, value in os.environ.items() if key in {"PATH", "LANG", "TMPDIR"}}


def _expanded(text: str, environment: Mapping[str, str]) -> str:
    for name, value in environment.items():
        text = text.replace(f"$({name})", value)
    return text
