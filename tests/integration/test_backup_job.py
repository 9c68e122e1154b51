"""The operator's Jobs with the real commands: options, configuration, and what they report.

Inputs: the command lines and the routers' configuration that the operator makes of specs.
Observed: the reports that the pods leave, as the operator reads them.
"""

from __future__ import annotations

import contextlib
import sys
from collections.abc import AsyncIterator
from pathlib import Path

from support.brokers import inputs_for, spec_of
from support.store_server import StoreServer
from tidegate.runtime.config.model import LimitsConfig, StoreConfig
from tidegate.store import embedded
from tidegate.store.api import AttachRequest
from tidegate.store.redis_store import RedisStore
from tidegate_operator.backups import job as jobs
from tidegate_operator.backups.job_state import parse_line
from tidegate_operator.backups.pod_report import run
from tidegate_operator.names import CONFIG_DIR, CONFIG_FILE
from tidegate_operator.render import Settings
from tidegate_operator.render.broker_config import as_yaml, router_config
from tidegate_operator.spec.backups import BackupJob, BackupTarget

TARGET = BackupTarget.model_validate({"persistentVolumeClaim": {"claimName": "backups"}})


@contextlib.asynccontextmanager
async def store(directory: Path) -> AsyncIterator[StoreServer]:
    """Yield a store as a broker has it that was never started: empty."""
    directory.mkdir()
    server = StoreServer(str(embedded.find_server()), directory)
    server.start()
    try:
        yield server
    finally:
        server.stop()


async def use(server: StoreServer, client: str) -> bool:
    """Attach a durable session; return whether it was there."""
    config = StoreConfig(url=server.url)
    it = await RedisStore.connect(url=server.url, limits=LimitsConfig(), store=config)
    try:
        request = AttachRequest(client, "e1", clean_start=False, session_expiry_s=7200, now_ms=1)
        return (await it.attach(request)).session_present
    finally:
        await it.close()


class Pods:
    """Runs the containers of Jobs on this machine."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self._inputs = inputs_for(spec_of())

    def run(
        self, purpose: jobs.Purpose, server: StoreServer, *arguments: str
    ) -> tuple[int, dict[str, object]]:
        """Run the container of a Job; return its exit code and what it has reported."""
        config = router_config(self._inputs.broker)
        config["store"] = {"url": server.url}
        file = self._directory / CONFIG_FILE
        file.write_text(as_yaml(config))
        where = jobs.place(TARGET, "iot", "demo")
        broker, settings = self._inputs.broker, Settings("image")
        spec = jobs.job_spec(broker, settings, purpose, where, BackupJob(), arguments)
        (container,) = spec["template"]["spec"]["containers"]
        command: list[str] = container["command"]
        command = [sys.executable, "-m", *command[command.index("tidegate") :]]
        places = {CONFIG_DIR: str(self._directory), jobs.TARGET_DIR: str(self._directory / "v")}
        for inside, outside in places.items():
            command = [one.replace(inside, outside, 1) for one in command]
        log = self._directory / "termination-log"
        code = run(command, log)
        return code, dict(parse_line(log.read_text()))


async def test_a_job_backs_up_what_another_one_restores(tmp_path: Path) -> None:
    pods = Pods(tmp_path)
    async with store(tmp_path / "a") as one, store(tmp_path / "b") as two:
        await use(one, "c")
        code, report = pods.run("backup", one, "--keep", "2")
        assert (code, report["phase"], report["sessions"]) == (0, "done", 1)
        assert {"name", "bytes", "sha256", "queued_messages", "retained"} <= report.keys()
        assert {"format", "version", "taken_at"} <= report.keys()
        assert (tmp_path / f"v/iot/demo/on-demand/{report['name']}.tgbackup").is_file()

        code, restored = pods.run("restore", two, "--name", "latest")
        assert (code, restored["phase"], restored["name"]) == (0, "done", report["name"])
        assert await use(two, "c")
        # A store with data is left as it is, and the operator has words for the reason.
        code, refused = pods.run("restore", one, "--name", str(report["name"]))
        assert (code, refused["phase"]) == (1, "failed")
        assert refused["reason"] == "store_not_empty"
        assert refused["message"]
