"""A replicated bundled store without Kubernetes: what is rendered for its pods, as processes.

Each pod has an address of its own on the loopback interface, so that ports are those of the pods;
the start script, the server's configuration and the member's settings are the rendered ones, with
other directories and addresses. A test kills, freezes and starts what it likes.
"""

from __future__ import annotations

import json
import os
import random
import shutil
import signal
import subprocess
import sys
import urllib.error
import urllib.request
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Final

import redis
from redis.backoff import NoBackoff
from redis.retry import Retry

from support import processes, tools
from support.brokers import NAMESPACE, inputs_for, pick, secret_data, spec_of
from support.waiting import wait_for
from tidegate.store.embedded import find_server
from tidegate_operator import names
from tidegate_operator.render import Manifest, render
from tidegate_operator.render.broker_config import router_config

DEADLINE_S: Final = 150.0
_NAME: Final = "demo"
_COUNT: Final = 3
SPEC: Final[dict[str, Any]] = {"bundled": {"replicas": _COUNT}}


class StorePod:
    """One pod: the server's container, and the member's with its Sentinel."""

    def __init__(self, directory: Path, number: int, host: str) -> None:
        self.host, self.number = host, number
        self._directory = directory
        self._server: subprocess.Popen[bytes] | None = None
        self._member: subprocess.Popen[bytes] | None = None

    def directory(self, name: str) -> Path:
        """One of the pod's volumes."""
        return self._directory / name

    def mount(self, files: Mapping[str, Mapping[str, bytes]]) -> None:
        """Make the volumes."""
        for volume in ("config", "files", "data", "run"):
            self.directory(volume).mkdir(parents=True, exist_ok=True)
            for name, content in files.get(volume, {}).items():
                (self.directory(volume) / name).write_bytes(content)

    def start(self) -> None:
        """Start both containers, as in a new pod."""
        shutil.rmtree(self.directory("run"))
        self.directory("run").mkdir()
        self.start_member()
        self.start_server()

    def start_member(self) -> None:
        """Start the container of Sentinel."""
        directories = [
            f"--{name}-dir={self.directory(name)}" for name in ("config", "files", "data", "run")
        ]
        self._member = self._start(
            "sentinel",
            [
                *(sys.executable, "-m", "tidegate_operator.store_member"),
                *("--name", f"{_NAME}-redis-{self.number}", "--bind", self.host),
                *("--program", str(self._sentinel_program()), *directories),
            ],
        )

    def _sentinel_program(self) -> Path:
        """A server that ends with the member, and so with the test, however that ends."""
        script = self._directory / "server.sh"
        setpriv = tools.find("setpriv")
        bound = f"{setpriv} --pdeathsig KILL -- " if setpriv is not None else ""
        script.write_text(f'#!/bin/sh\nexec {bound}{find_server()} "$@"\n')
        script.chmod(0o755)
        return script

    def start_server(self) -> None:
        """Start the container of the server; also after it has ended, as the kubelet does."""
        script = self.directory("config") / "start.sh"
        command = ["/bin/sh", *map(str, (script, self.directory("run"), find_server()))]
        self._server = self._start("server", command)

    def start_single(self) -> None:
        """Start the container of a store with one server."""
        file = self.directory("config") / "single.conf"
        self._server = self._start("server", [str(find_server()), str(file)])

    def end_single(self) -> None:
        """End it as the kubelet does."""
        assert self._server is not None
        self._server.terminate()
        self._server.wait(DEADLINE_S)

    def _start(self, name: str, command: Sequence[str | Path]) -> subprocess.Popen[bytes]:
        with (self._directory / f"{name}.log").open("ab") as log:
            return processes.start(
                command, stdout=log, stderr=subprocess.STDOUT, start_new_session=True
            )

    def report(self) -> dict[str, Any]:
        """What the member says; empty if it does not reply."""
        try:
            url = f"http://{self.host}:{names.ADMIN_PORT}/store"
            with urllib.request.urlopen(url, timeout=2) as response:  # our own
                found: dict[str, Any] = json.load(response)
        except (OSError, urllib.error.URLError):
            return {}
        return found

    def is_ready(self) -> bool:
        """Whether the pod would be ready."""
        try:
            url = f"http://{self.host}:{names.ADMIN_PORT}/readyz"
            with urllib.request.urlopen(url, timeout=2):  # our own
                return True
        except (OSError, urllib.error.URLError):
            return False

    def command(self, *words: str | int) -> Any:
        """Run a command on the server."""
        password = (self.directory("files") / "password").read_text().strip()
        client = redis.Redis(
            self.host, names.REDIS_PORT, password=password, retry=Retry(NoBackoff(), 0)
        )
        with client:
            return client.execute_command(*words)  # type: ignore[no-untyped-call]  # theirs

    def replies(self) -> bool:
        """Whether the server has loaded its data."""
        try:
            return bool(self.command("PING"))
        except (redis.ConnectionError, redis.ResponseError):
            return False

    def kill_server(self) -> None:
        """End the server's process at once."""
        assert self._server is not None
        self._server.kill()
        self._server.wait()

    def kill(self) -> None:
        """End everything at once, as if the node were gone. The volume stays."""
        self._signal(signal.SIGKILL)
        for process in (self._server, self._member):
            if process is not None:
                process.wait()

    def freeze(self) -> None:
        """Stop all processes: connections stay, nothing is answered."""
        self._signal(signal.SIGSTOP)

    def thaw(self) -> None:
        """Undo ``freeze``."""
        self._signal(signal.SIGCONT)

    def freeze_server(self) -> None:
        """Stop the server's process only; ``thaw`` undoes it."""
        assert self._server is not None
        self._server.send_signal(signal.SIGSTOP)

    def stop(self) -> None:
        """End it as the kubelet does: the hook, then SIGTERM for both containers."""
        assert self._server is not None
        assert self._member is not None
        script = self.directory("config") / "stop.sh"
        self._member.terminate()
        processes.run(["/bin/sh", script, self.directory("run")], DEADLINE_S)
        self._server.terminate()
        self._server.wait(DEADLINE_S)
        self._member.wait(DEADLINE_S)

    def _signal(self, number: int) -> None:
        if self._server is not None and self._server.poll() is None:
            self._server.send_signal(number)
        if self._member is not None and self._member.poll() is None:
            os.killpg(self._member.pid, number)


class ReplicatedStore:
    """Three pods, and the store section that routers get."""

    def __init__(self, directory: Path) -> None:
        # The whole of 127.0.0.0/8 is this machine.
        network = f"127.{random.randint(1, 254)}.{random.randint(0, 254)}"
        self.pods = [
            StorePod(directory / str(number), number, f"{network}.{number + 1}")
            for number in range(_COUNT)
        ]
        self._directory = directory
        inputs = inputs_for(spec_of(redis=SPEC))
        self.manifests: Sequence[Manifest] = render(inputs)
        config = pick(self.manifests, "ConfigMap", f"{_NAME}-redis")["data"]
        secret = secret_data(pick(self.manifests, "Secret", f"{_NAME}-redis"))
        single = pick(render(inputs_for(spec_of())), "ConfigMap", f"{_NAME}-redis")["data"]
        config = config | {"single.conf": single[names.STORE_CONFIG_FILE]}
        for pod in self.pods:
            text = {name: self._placed(one, pod).encode() for name, one in config.items()}
            text["single.conf"] += f"bind {pod.host}\n".encode()
            pod.mount({"config": text, "files": secret})
        password = directory / "password"
        password.write_bytes(secret["password"])
        #: What ``tidegate`` is configured with.
        self.settings: dict[str, Any] = {
            **router_config(inputs.broker)["store"],
            "url": self._placed(router_config(inputs.broker)["store"]["url"], self.pods[0]),
            "password_file": str(password),
            "sentinel_password_file": str(password),
        }

    def _placed(self, text: str, pod: StorePod) -> str:
        """Return what is rendered, for directories and addresses of this machine."""
        places = zip(names.store_members(_NAME, NAMESPACE, _COUNT), self.pods, strict=True)
        for name, place in places:
            text = text.replace(name, place.host)
        text = text.replace(f"dir {names.STORE_DATA_DIR}\n", f"dir {pod.directory('data')}\n")
        return text.replace(names.FILES_DIR, str(pod.directory("files")))

    def start(self) -> None:
        """Start all pods and wait until they are ready; what fails leaves nothing."""
        try:
            for pod in self.pods:
                pod.start()
            self.wait_until_ready()
            self.wait_until_known()
        except BaseException:
            self.kill()
            raise

    def wait_until_ready(self, pods: Sequence[StorePod] | None = None) -> None:
        """Wait until the pods (all) are ready."""
        for pod in self.pods if pods is None else pods:
            wait_for(pod.is_ready, DEADLINE_S, f"pod {pod.number} is ready")

    def wait_until_known(self) -> None:
        """Wait until every Sentinel knows everybody: it asks every 10 seconds."""

        def known() -> bool:
            reports = [pod.report() for pod in self.pods]
            return all(
                one and one["sentinels"] == _COUNT and one["replicas"] == _COUNT - 1
                for one in reports
            )

        wait_for(known, DEADLINE_S, "the Sentinels know each other and all servers")

    def primary(self) -> StorePod:
        """Wait until one pod is the primary, as it says itself; return it."""
        found = wait_for(self._primaries, DEADLINE_S, "there is a primary")
        (one,) = found
        return one

    def wait_for_another_primary(self, old: StorePod) -> StorePod:
        """Wait until another pod is ready as the primary."""

        other = self.has_another_primary(old)
        wait_for(other, DEADLINE_S, "another server is the primary")
        return next(pod for pod in self._primaries() if pod is not old)

    def has_another_primary(self, old: StorePod) -> Callable[[], bool]:
        """Return what says whether another pod is ready as the primary."""
        return lambda: any(pod is not old for pod in self._primaries())

    def _primaries(self) -> list[StorePod]:
        reports = ((pod, pod.report()) for pod in self.pods)
        return [
            pod
            for pod, found in reports
            if found.get("role") == "primary" and found.get("primary") == pod.host
        ]

    def replicas(self) -> list[StorePod]:
        """All pods but the primary."""
        primary = self.primary()
        return [pod for pod in self.pods if pod is not primary]

    def want_primary(self, wanted: StorePod) -> None:
        """Change the settings of all members, as the operator does for a store that is reduced."""
        for pod in self.pods:
            file = pod.directory("config") / names.STORE_MEMBER_FILE
            file.write_text(
                json.dumps(json.loads(file.read_text()) | {"wanted_primary": wanted.host})
            )

    def kill(self) -> None:
        """End what is left."""
        for pod in self.pods:
            pod.thaw()
            pod.kill()
