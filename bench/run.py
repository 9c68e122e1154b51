"""Measure the broker: CPU time per delivered message, latency, memory per connection.

Starts ``tidegate serve`` on free loopback ports with a fresh data directory, plays the scenarios of
docs/performance.md against it with ``mqload`` (compiled from bench/mqload.c), and prints one JSON
line for each, with the command, the commit and the versions. With ``--mosquitto`` the same is
played against a mosquitto on the same machine, in turn, so that a ratio can be quoted from one run.

    python bench/run.py [--scenarios A,B,C] [--cluster 2x2] [--mosquitto] [--repeat N] [--out FILE]

``--cluster EDGESxROUTERS`` plays against processes of their own, joined by gRPC; the supervisor,
the store and all parts are counted.
"""

from __future__ import annotations

import argparse
import functools
import json
import os
import platform
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parent
SCENARIOS = {
    "A": "-n 200000 -P 10 -S 10 -x",
    "B": "-n 2000 -S 500 -w 20000",
    "C": "-n 100000 -q 1 -P 10 -S 10 -x",
    "D": "-n 50000 -q 2 -P 10 -S 10 -x",
    "E": "-n 20000 -r 2000 -P 500 -S 500 -x",
    "E10": "-n 60000 -r 10000 -P 500 -S 500 -x",
    "F": "-n 100000 -q 1 -P 10 -S 10 -x -D -V 5",
    "G": "-C -P 5000 -S 0",
    "H": "-C -P 15000 -S 0 -H 5",
    "I": "-n 200000 -P 10 -S 10 -x -W",
}


def compile_mqload(directory: Path) -> Path:
    """Compile the load generator; it stays in ``directory``."""
    target = directory / "mqload"
    subprocess.run(["cc", "-O2", "-o", target, HERE / "mqload.c"], check=True)
    return target


def start_tidegate(directory: Path, *options: str) -> tuple[subprocess.Popen[str], int, int]:
    """Start the broker; return the process, its TCP port and its WebSocket port."""
    process = subprocess.Popen(
        [
            sys.executable, "-m", "tidegate", "serve",
            "--listener", "tcp://127.0.0.1:0", "--listener", "ws://127.0.0.1:0/mqtt",
            "--admin", "off", "--allow-anonymous", "--data-dir", str(directory),
            "--log-level", "warning", *options,
        ],
        stdout=subprocess.PIPE, text=True,
        env=os.environ | {"TIDEGATE_CONSOLE__ENABLED": os.environ.get("BENCH_CONSOLE", "false")},
    )  # fmt: skip
    assert process.stdout is not None
    for line in process.stdout:
        if line.startswith("tidegate ready"):
            ports = {}
            for word in line.split()[2:]:
                if "://" not in word:
                    continue
                scheme, _, rest = word.partition("=")[2].partition("://")
                ports[scheme] = int(rest.rstrip("/").split("/")[0].rpartition(":")[2])
            return process, ports["tcp"], ports["ws"]
    raise SystemExit("the broker did not start")


def _start_cluster(
    edges: str, routers: str, directory: Path
) -> tuple[subprocess.Popen[str], int, int]:
    return start_tidegate(directory, "--edges", edges, "--routers", routers)


def start_mosquitto(directory: Path) -> tuple[subprocess.Popen[str], int, int]:
    """Start mosquitto with the settings that make the scenarios comparable."""
    ports = []
    for _ in range(2):
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            ports.append(probe.getsockname()[1])
    config = directory / "mosquitto.conf"
    config.write_text(
        f"listener {ports[0]} 127.0.0.1\nlistener {ports[1]} 127.0.0.1\nprotocol websockets\n"
        "allow_anonymous true\npersistence false\nmax_queued_messages 0\nset_tcp_nodelay true\n"
    )
    binary = shutil.which("mosquitto") or "/usr/sbin/mosquitto"
    process = subprocess.Popen(
        [binary, "-c", config], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, text=True
    )
    for _ in range(100):
        with socket.socket() as probe:
            if probe.connect_ex(("127.0.0.1", ports[0])) == 0:
                break
        time.sleep(0.05)
    return process, ports[0], ports[1]


def play(mqload: Path, name: str, start: Any) -> dict[str, Any]:
    """Start a broker, play one scenario, end the broker."""
    with tempfile.TemporaryDirectory() as directory:
        process, tcp, ws = start(Path(directory))
        try:
            options = SCENARIOS[name].split()
            port = ws if "-W" in options else tcp
            command = [str(mqload), "-p", str(port), "-k", str(process.pid), *options]
            done = subprocess.run(command, capture_output=True, text=True, check=False)
            result = json.loads(done.stdout or "{}")
            if done.returncode:
                result["failed"] = done.stderr[-200:]
            return {"scenario": name, "options": SCENARIOS[name], **result}
        finally:
            process.send_signal(signal.SIGTERM)
            process.wait(20)


def main() -> None:
    """Play what was asked for."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--scenarios", default=",".join(SCENARIOS))
    parser.add_argument("--cluster", metavar="EDGESxROUTERS")
    parser.add_argument("--mosquitto", action="store_true")
    parser.add_argument("--repeat", type=int, default=1)
    parser.add_argument("--out", type=Path)
    arguments = parser.parse_args()
    commit = subprocess.run(
        ["git", "rev-parse", "--short", "HEAD"],
        cwd=HERE,
        capture_output=True,
        text=True,
        check=False,
    ).stdout.strip()
    about = {"commit": commit, "python": platform.python_version(), "machine": platform.machine()}
    brokers: list[tuple[str, Any]] = [("tidegate", start_tidegate)]
    if arguments.cluster:
        edges, _, routers = arguments.cluster.partition("x")
        start = functools.partial(_start_cluster, edges, routers)
        brokers = [(f"tidegate {arguments.cluster}", start)]
    if arguments.mosquitto:
        brokers.append(("mosquitto", start_mosquitto))
    with tempfile.TemporaryDirectory() as directory:
        mqload = compile_mqload(Path(directory))
        for name in arguments.scenarios.split(","):
            for _ in range(arguments.repeat):
                for broker, start in brokers:
                    line = json.dumps({"broker": broker, **about, **play(mqload, name, start)})
                    print(line, flush=True)
                    if arguments.out:
                        with arguments.out.open("a") as out:
                            out.write(line + "\n")


if __name__ == "__main__":
    main()
