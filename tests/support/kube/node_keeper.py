"""Starts a whole cluster in network namespaces, keeps it, and takes it away again.

``python -m support.kube.node_keeper JOB`` is started by ``support.kube.node``. It says on standard
output when all nodes are ready; each line of standard input is an order to lose one or to bring it
back, and when the input ends, so does everything: the machine is left as it was whatever kills the
tests. One cluster at a time on a machine.
"""

from __future__ import annotations

import contextlib
import fcntl
import http.client
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any, Final

from support import tools
from support.kube import node_cloud, node_pki, node_settings
from support.kube.node_api import Api, ApiError, is_ready
from support.kube.node_machine import PROXY_HEALTH, Machine, proxy
from support.kube.node_settings import ADDRESS, ETHERNET, SWITCH, Places, Programs
from support.kube.node_traces import Traces, end_processes, enter, make_cgroups
from support.waiting import wait_for

#: Between two nodes on one machine.
_TURN_DEADLINE_S: Final = 900.0
#: Of a machine that does much else.
_READY_DEADLINE_S: Final = 240.0
_FORWARD: Final = Path("/proc/sys/net/ipv4/ip_forward")
_TESTS: Final = Path(__file__).parents[2]


class Ended(Exception):
    """The tests do not want the node any more."""


class Keeper:
    """One cluster: what runs, and what has to be undone."""

    def __init__(self, job: dict[str, Any], work: Path) -> None:
        self.places = Places(work)
        self.programs = Programs(**job["programs"])
        self.images: list[str] = job["images"]
        self.namespace = f"tidegate-{os.getpid()}"
        count: int = job["machines"]
        self.machines = [Machine(number, self.places) for number in range(1, count + 1)]
        self.processes: dict[str, subprocess.Popen[bytes]] = {}
        self.times: dict[str, float] = {}
        self._began = time.monotonic()

    def up(self) -> None:
        """Start everything; return once all nodes are ready for pods."""
        self._networks()
        make_cgroups([machine.cgroup for machine in self.machines])
        places, first = self.places, self.machines[0]
        node_settings.write(places)
        for machine in self.machines:
            machine.write(self.programs, alone=self._is_alone)
        nodes = {machine.name: machine.address for machine in self.machines}
        node_pki.write(places.keys, ADDRESS, node_settings.API_SERVICE, nodes)
        self._start_on(first, "containerd", first.containerd(self.programs))
        api = Api(Path(places.kubeconfig("admin")))
        with ThreadPoolExecutor(1) as pool:
            imported = pool.submit(self._import_images, first)
            self._control_plane(api, imported)
            self._containerds(imported)
            for machine in self.machines:
                self._start_on(machine, "kubelet", machine.kubelet(self.programs))
                self._start_on(machine, "proxy", machine.proxy(self.programs))
            self._start("proxy", proxy(self.programs, places, first.name, ADDRESS))
            self._wait(imported, lambda: _are_ready(api, self.machines), "all nodes are ready")
            self._wait(imported, _is_proxy_ready, "Services have addresses")
            self._wait(imported, imported.done, "images")
        (places.work / "times.json").write_text(json.dumps(self.times))

    @property
    def _is_alone(self) -> bool:
        return len(self.machines) == 1

    def _control_plane(self, api: Api, imported: Future[None]) -> None:
        """Start what is on no node; wait until the API server serves."""
        places, programs, quick = self.places, self.programs, not self._is_alone
        self._start("etcd", node_settings.etcd(places, programs))
        self._start("apiserver", node_settings.api_server(places, programs, quick=quick))
        self._wait(imported, lambda: _serves(api), "the API server is ready")
        controllers = node_settings.controller_manager(places, programs, quick=quick)
        self._start("controller-manager", controllers)
        self._start("scheduler", node_settings.scheduler(places, programs))
        cloud = [sys.executable, "-m", "support.kube.node_cloud"]
        self._start("cloud", [*cloud, places.kubeconfig("admin"), ADDRESS, str(places.volumes)])
        for manifest in node_settings.first_objects(
            node_cloud.STORAGE_CLASS, node_cloud.PROVISIONER
        ):
            api.apply(manifest)

    def _containerds(self, imported: Future[None]) -> None:
        """Start containerd on the other machines; wait until it is there on all of them."""
        first, *others = self.machines
        if others:
            # What is copied must be at rest.
            self._wait(imported, imported.done, "images")
        for machine in others:
            _copy_images(first, machine)
            self._start_on(machine, "containerd", machine.containerd(self.programs))
        sockets = [machine.containerd_socket for machine in self.machines]
        self._wait(imported, lambda: all(one.exists() for one in sockets), "containerd is there")

    def obey(self, order: dict[str, str]) -> None:
        """Lose a machine, or bring it back: {"do": "cut"|"kill"|"return", "node": NAME}."""
        (machine,) = (one for one in self.machines if one.name == order["node"])
        is_cut = order["do"] != "return"
        _call("ip", "link", "set", machine.interface, "down" if is_cut else "up")
        if order["do"] == "kill":
            # It is off: its packets end before its processes do.
            self.processes[f"proxy-{machine.name}"].kill()
            end_processes(f"{machine.directory}/", machine.cgroup)
            for name in machine.programs():
                self.processes[name].wait()
        if not is_cut:
            self._boot(machine)

    def _boot(self, machine: Machine) -> None:
        """Start whatever does not run on a machine."""
        for name, command in (
            ("containerd", machine.containerd(self.programs)),
            ("kubelet", machine.kubelet(self.programs)),
            ("proxy", machine.proxy(self.programs)),
        ):
            if self.processes[f"{name}-{machine.name}"].poll() is not None:
                if name == "containerd":
                    machine.containerd_socket.unlink(missing_ok=True)
                self._start_on(machine, name, command)
                if name == "containerd":
                    wait_for(
                        machine.containerd_socket.exists, _READY_DEADLINE_S, "containerd is back"
                    )

    def _networks(self) -> None:
        """Make the network of the control plane, which is the switch, and those of the machines."""
        _call("ip", "netns", "add", self.namespace)
        enter(Path("/run/netns", self.namespace))
        for command in (
            "link set lo up",
            f"link add {SWITCH} address {ETHERNET}00 type bridge",
            f"addr add {ADDRESS}/24 dev {SWITCH}",
            f"link set {SWITCH} up",
            # Nothing leaves: the way to anywhere is the control plane itself.
            f"route add default via {ADDRESS}",
        ):
            _call("ip", *command.split())
        _FORWARD.write_text("1")
        for machine in self.machines:
            _call("ip", "netns", "add", self._namespace_of(machine))
            for command in machine.cables(self._namespace_of(machine)):
                _call("ip", *command.split())
            with self._inside(machine):
                for command in machine.network([one for one in self.machines if one != machine]):
                    _call("ip", *command.split())
                _FORWARD.write_text("1")

    def _namespace_of(self, machine: Machine) -> str:
        return f"{self.namespace}-{machine.number}"

    @contextlib.contextmanager
    def _inside(self, machine: Machine) -> Iterator[None]:
        """Be on a machine: what is started then is there."""
        enter(Path("/run/netns", self._namespace_of(machine)))
        try:
            yield
        finally:
            enter(Path("/run/netns", self.namespace))

    def _start_on(self, machine: Machine, name: str, command: list[str]) -> None:
        with self._inside(machine):
            self._start(f"{name}-{machine.name}", command)

    def _start(self, name: str, command: list[str]) -> None:
        environment = {
            "PATH": f"{self.programs.containerd}:{os.environ['PATH']}:/usr/sbin:/sbin",
            "PYTHONPATH": str(_TESTS),
            "HOME": str(self.places.work),
        }
        with (self.places.work / "log" / f"{name}.log").open("ab") as log:
            self.processes[name] = subprocess.Popen(
                command,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                env=environment,
                start_new_session=True,
            )

    def _import_images(self, machine: Machine) -> None:
        ctr = machine.ctr(self.programs)

        def serves() -> bool:
            return (
                machine.containerd_socket.exists()
                and subprocess.run([*ctr, "version"], capture_output=True, check=False).returncode
                == 0
            )

        wait_for(serves, _READY_DEADLINE_S, "containerd answers")
        for image in self.images:
            _call(*ctr, "images", "import", "--local", image)

    def _wait(self, other: Future[None], condition: Callable[[], bool], what: str) -> None:
        def met() -> bool:
            for name, process in self.processes.items():
                if process.poll() is not None:
                    raise RuntimeError(f"{name} ended with {process.returncode}")
            if other.done():
                other.result()
            return condition()

        try:
            wait_for(met, _READY_DEADLINE_S, what)
        except AssertionError as error:
            load = " ".join(f"{one:.0f}" for one in os.getloadavg())
            raise AssertionError(
                f"{error} (load average {load} on {os.cpu_count()} processors; a machine that is "
                f"not just too busy: see the logs of the programs below)"
            ) from None
        self._time(what)

    def _time(self, what: str) -> None:
        self.times[what] = round(time.monotonic() - self._began, 1)


def _copy_images(source: Machine, target: Machine) -> None:
    """Give a machine the images of another one without unpacking them once more.

    Layers are never written to, so that links are enough; databases are.
    """
    disk = target.directory / "containerd"
    _call("cp", "--archive", "--link", str(source.directory / "containerd"), str(disk))
    for file in disk.glob("io.containerd.*/*.db"):
        own = file.with_suffix(".own")
        shutil.copy2(file, own)
        own.rename(file)


def _serves(api: Api) -> bool:
    with contextlib.suppress(ApiError, OSError):
        return bool(api.request("GET", "/readyz")["text"] == "ok")
    return False


def _are_ready(api: Api, machines: Sequence[Machine]) -> bool:
    nodes = {one["metadata"]["name"]: one for one in api.list("v1", "Node")}
    return (
        all(is_ready(nodes.get(machine.name, {})) for machine in machines)
        and api.read("v1", "ServiceAccount", "default", "default") is not None
    )


def _is_proxy_ready() -> bool:
    """Whether kube-proxy of the network that this is called in has done its work once."""
    connection = http.client.HTTPConnection("127.0.0.1", PROXY_HEALTH, timeout=5)
    with contextlib.suppress(OSError), contextlib.closing(connection):
        connection.request("GET", "/healthz")
        return connection.getresponse().status == http.HTTPStatus.OK
    return False


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
                "machines": [machine.name for machine in keeper.machines],
            }
        )
        for order in sys.stdin:
            _tell(_done(keeper, json.loads(order)))
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


def _done(keeper: Keeper, order: dict[str, str]) -> dict[str, Any]:
    """Obey; return {} or why it did not work."""
    try:
        keeper.obey(order)
    except (RuntimeError, AssertionError, OSError) as error:
        return {"error": f"{type(error).__name__}: {error}"}
    return {}


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
