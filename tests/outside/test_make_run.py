"""``make run`` on a machine that has nothing of Tidegate yet.

Input: a copy of what git has, without caches of pip and npm. Observed: a client gets its
message, the console logs in with its first token, its page is there once it has been built beside
the broker, and Ctrl-C ends all of it. How long it takes is printed, and judged by nobody.
"""

from __future__ import annotations

import contextlib
import http.client
import os
import random
import shutil
import signal
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Final

import pytest

from support import processes, tools
from support.console import LINE, Api
from support.mqtt_bytes import V5
from support.raw_client import RawClient
from support.waiting import wait_for, wait_for_async

ROOT: Final = Path(__file__).parents[2]
#: An idle machine with two cores takes half a minute for the install, and as long for the page.
INSTALL_S: Final = 400.0
READY_S: Final = 60.0
BUILD_S: Final = 300.0
STOP_S: Final = 30.0

pytestmark = pytest.mark.timeout(INSTALL_S + READY_S + BUILD_S + STOP_S)


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    """Copy what git has, as it is in the working tree."""
    listed = subprocess.run(
        [tools.require("git"), "ls-files", "-z"], cwd=ROOT, capture_output=True, check=False
    )
    if listed.returncode:
        tools.missing("a checkout of git")
    target = tmp_path / "checkout"
    for name in filter(None, listed.stdout.decode().split("\0")):
        if (ROOT / name).exists():
            (target / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(ROOT / name, target / name)
    return target


class Run:
    """``make run``, and what it has printed."""

    def __init__(self, checkout: Path) -> None:
        tools.require("make")
        # Any address of loopback is free, whoever uses the ports of 127.0.0.1.
        self.address = f"127.{random.randint(1, 254)}.{random.randint(1, 254)}.1"
        self._printed = checkout.parent / "printed"
        environment = {
            name: value
            for name, value in os.environ.items()
            if not name.startswith(("MAKE", "PYTHON", "TIDEGATE", "VIRTUAL_ENV"))
        }
        caches = {
            "PIP_NO_CACHE_DIR": "1",
            "npm_config_cache": str(checkout.parent / "npm"),
        }
        self.started_s = time.monotonic()
        with self._printed.open("wb") as out:
            self.process = processes.start(
                ["make", "run", f"ADDRESS={self.address}"],
                cwd=checkout,
                env=environment | caches,
                stdin=subprocess.DEVNULL,
                stdout=out,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )

    def text(self) -> str:
        """Return all of it."""
        return self._printed.read_text(errors="replace")

    def line(self, beginning: str, deadline_s: float) -> str:
        """Return the first whole line that begins so; the install may find no registry."""

        def found() -> str:
            if self.process.poll() is not None:
                tools.missing(f"an install, or `make run`: {self.text()[-600:]}")
            lines = self.text().splitlines(keepends=True)
            return next((x for x in lines if x.startswith(beginning) and x.endswith("\n")), "")

        return wait_for(found, deadline_s, f"a line {beginning!r}: {self.text()[-600:]}").strip()

    def took(self, what: str) -> None:
        """Print how long it has been."""
        print(f"{what} after {time.monotonic() - self.started_s:.1f} s")


@pytest.fixture
def run(checkout: Path) -> Iterator[Run]:
    started = Run(checkout)
    yield started
    with contextlib.suppress(ProcessLookupError):
        os.killpg(started.process.pid, signal.SIGKILL)
    started.process.wait()


async def test_one_command_installs_and_serves_with_the_console(run: Run, checkout: Path) -> None:
    run.line("tidegate ready", INSTALL_S + READY_S)
    run.took("ready")
    client = await RawClient.open(f"tcp://{run.address}:1883", version=V5)
    await client.connect("first")
    await client.subscribe("greetings/#")
    await client.publish("greetings/world", b"hello")
    assert (await client.expect("PUBLISH")).payload == b"hello"
    url, _, token = run.line(LINE, READY_S).removeprefix(LINE).partition("/#token=")
    run.took("console")
    assert url == f"http://{run.address}:18080"
    api = Api(url, token)
    assert api.get("/me").body["role"] == "admin"

    def page() -> str:
        connection = http.client.HTTPConnection(run.address, 18080, timeout=10)
        with contextlib.closing(connection):
            connection.request("GET", "/", headers={"Accept": "text/html"})
            return connection.getresponse().read().decode()

    await wait_for_async(lambda: 'type="module"' in page(), BUILD_S, f"the page: {page()[:500]}")
    run.took("page")
    assert (checkout / "data").is_dir()
    client.close()
    os.killpg(run.process.pid, signal.SIGINT)
    assert run.process.wait(STOP_S) in {0, 2, -signal.SIGINT, 130}, run.text()
    assert "Traceback" not in run.text()
