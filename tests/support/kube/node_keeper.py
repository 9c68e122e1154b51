"""Starts a whole Kubernetes node in a network namespace, keeps it, and takes it away again.

``python -m support.kube.node_keeper JOB`` is started by ``support.kube.node``. It says on standard
output when the node is ready, and ends it when standard input ends: so the machine is left as it
was whatever kills the tests. One node at a time on a machine.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any, Final

from support import tools
from support.kube import node_cloud, node_pki, node_settings
from support.kube.node_api import Api, ApiError
from support.kube.node_settings import ADDRESS, NODE, Places, Programs
from support.kube.node_traces import Traces, enter, make_cgroups
from support.waiting import wait_for

#: Between two nodes on one machine.
_TURN_DEADLINE_S: Final = 900.0
_READY_DEADLINE_S: Final = 120.0
_TESTS: Final = Path(__file__).parents[2]


class Ended(Exception):
    """The tests do not want the node any more."""


class Keeper:
    """One node: what runs, and what has to be undone."""

    def __init__(self, job: dict[str, Any], work: Path) -> None:
        self.places = Places(work)
        self.programs = Programs(**job["programs"])
        self.images: list[str] = job["images"]
        self.namespace = f"tidegate-{os.getpid()}"
        self.processes: dict[str, subprocess.Popen[bytes]] = {}
        self.times: dict[str, float] = {}
        self._began = time.monotonic()

    def up(self) -> None:
        """Start everything; return once the node is ready for pods."""
        self._network()
        make_cgroups()
        work, places, programs = self.places.work, self.places, self.programs
        node_settings.write(places, programs)
        node_pki.write(places.keys, ADDRESS, node_settings.API_SERVICE, NODE)
        self._start("etcd", node_settings.etcd(places, programs))
        self._start("containerd", node_settings.containerd(places, programs))
        self._start("apiserver", node_settings.api_server(places, programs))
        api = Api(Path(places.kubeconfig("admin")))
        with ThreadPoolExecutor(1) as pool:
            imported = pool.submit(self._import_images)
            self._wait(imported, lambda: _serves(api), "the API server is ready")
            self._start("controller-manager", node_settings.controller_manager(places, programs))
            self._start("scheduler", node_settings.scheduler(places, programs))
            cloud = [sys.executable, "-m", "support.kube.node_cloud"]
            self._start("cloud", [*cloud, places.kubeconfig("admin"), ADDRESS, str(places.volumes)])
            self._wait(imported, places.containerd_socket.exists, "containerd is there")
            self._start("kubelet", node_settings.kubelet(places, programs))
            self._start("proxy", node_settings.proxy(places, programs))
            for manifest in node_settings.first_objects(
                node_cloud.STORAGE_CLASS, node_cloud.PROVISIONER
            ):
                api.apply(manifest)
            self._wait(imported, lambda: _is_ready(api), "the node is ready")
            imported.result()
        self._time("images")
        (work / "times.json").write_text(json.dumps(self.times))

    def _network(self) -> None:
        _call("ip", "netns", "add", self.namespace)
        enter(Path("/run/netns", self.namespace))
        for command in (
            "link set lo up",
            "link add node0 type bridge",
            f"addr add {ADDRESS}/24 dev node0",
            "link set node0 up",
            # Nothing leaves: the way to anywhere is the node itself.
            f"route add default via {ADDRESS}",
        ):
            _call("ip", *command.split())
        Path("/proc/sys/net/ipv4/ip_forward").write_text("1")

    def _start(self, name: str, command: list[str]) -> None:
        environment = {
            "PATH": f"{self.programs.containerd}:{os.environ['PATH']}:/usr/sbin:/sbin",
            "PYTHONPATH": str(_TESTS),
            "HOME": str(self.places.work),
        }
        with (self.places.work / "log" / f"{name}.log").open("wb") as log:
            self.processes[name] = subprocess.Popen(
                command,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                env=environment,
                start_new_session=True,
            )

    def _import_images(self) -> None:
        socket = self.places.containerd_socket
        ctr = [f"{self.programs.containerd}/ctr", "--address", str(socket)]

        def serves() -> bool:
            return (
                socket.exists()
                and subprocess.run([*ctr, "version"], capture_output=True, check=False).returncode
                == 0
            )

        wait_for(serves, _READY_DEADLINE_S, "containerd answers")
        for image in self.images:
            _call(*ctr, "--namespace", "k8s.io", "images", "import", "--local", image)

    def _wait(self, other: Future[None], condition: Callable[[], bool], what: str) -> None:
        def met() -> bool:
            for name, process in self.processes.items():
                if process.poll() is not None:
                    raise RuntimeError(f"{name} ended with {process.returncode}")
            if other.done():
                other.result()
            return condition()

        wait_for(met, _READY_DEADLINE_S, what)
        self._time(what)

    def _time(self, what: str) -> None:
        self.times[what] = round(time.monotonic() - self._began, 1)


def _serves(api: Api) -> bool:
    with contextlib.suppress(ApiError, OSError):
        return bool(api.request("GET", "/readyz")["text"] == "ok")
    return False


def _is_ready(api: Api) -> bool:
    node = api.read("v1", "Node", "", NODE) or {}
    conditions = node.get("status", {}).get("conditions", [])
    ready = any(one["type"] == "Ready" and one["status"] == "True" for one in conditions)
    return ready and api.read("v1", "ServiceAccount", "default", "default") is not None


def _call(*command: str) -> None:
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise RuntimeError(f"{' '.join(command)}: {done.stderr.strip()[-1000:]}")


def _tell(what: dict[str, Any]) -> None:
    with contextlib.suppress(OSError):
        print(json.dumps(what), flush=True)


def _stop(*_: object) -> None:
    raise Ended


def _take_turn() -> Any:
    """Wait until no other node runs on this machine; the lock lasts as long as what it returns."""
    lock = (tools.cache_directory() / "node.lock").open("w")

    def got_it() -> bool:
        with contextlib.suppress(BlockingIOError):
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return True
        return False

    wait_for(got_it, _TURN_DEADLINE_S, "no other node runs on this machine")
    return lock


def main(job: str) -> int:
    """Keep a node until standard input ends or SIGTERM comes; the exit code says how it went."""
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
        signal.signal(number, _stop)
    file = tools.cache_directory() / "node.traces"
    keeper = traces = None
    try:
        lock = _take_turn()
        left = Traces.load(file)
        if left is not None:
            left.remove()
        work = Path(tempfile.mkdtemp(prefix="tidegate-node-")).resolve()
        keeper = Keeper(json.loads(job), work)
        traces = Traces.of_now(work, keeper.namespace)
        traces.save(file)
        keeper.up()
        _tell(
            {
                "ready": keeper.times,
                "keeper": os.getpid(),
                "work": str(work),
                "namespace": f"/run/netns/{keeper.namespace}",
                "pids": {name: one.pid for name, one in keeper.processes.items()},
            }
        )
        sys.stdin.read()
    except Ended:
        pass
    except (Exception, AssertionError) as error:  # told to whoever asked
        _tell({"error": f"{type(error).__name__}: {error}", "logs": _logs(keeper)})
    finally:
        for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
            signal.signal(number, signal.SIG_IGN)
        if traces is not None:
            traces.remove()
            file.unlink(missing_ok=True)
        if keeper is not None:
            for process in keeper.processes.values():
                process.wait()
    lock.close()
    return 0


def _logs(keeper: Keeper | None) -> str:
    """Return the ends of the programs' logs."""
    if keeper is None:
        return ""
    found = []
    for log in sorted((keeper.places.work / "log").glob("*.log")):
        found += [f"--- {log.stem}", *log.read_text(errors="replace").splitlines()[-15:]]
    return "\n".join(found)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1]))
