"""A backup taken from a broker under load, restored, and served by another broker.

Input: publishers that count what is acknowledged, sleeping subscribers, one that is awake.
Observed: what each gets from the restored broker.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import sys
from pathlib import Path

import pytest

from support import mqtt_bytes
from support.broker import StartBroker, Tidegate
from support.mqtt_bytes import V5
from support.raw_client import RawClient

pytestmark = pytest.mark.usefixtures("no_connection_is_left")

FOR_EVER = [("session_expiry", 3600)]
SLEEPERS = 3
#: Messages are this long, so that a queue takes several reads.
PADDING = b"." * 2000


async def _open(broker: Tidegate, client_id: str) -> RawClient:
    address = broker.address("tcp")
    client = await RawClient.open(f"tcp://{address.host}:{address.port}", version=V5)
    await client.connect(client_id, clean=False, props=FOR_EVER)
    return client


class Publisher:
    """Publishes numbers one after the other; ``acknowledged`` is the last one that was."""

    def __init__(self, client: RawClient, name: str, qos: int) -> None:
        self._client = client
        self.name = name
        self._qos = qos
        self.acknowledged = 0

    async def run(self) -> None:
        client = self._client
        while True:
            number = self.acknowledged + 1
            packet_id = number % 60_000 + 1
            payload = b"%b %d %b" % (self.name.encode(), number, PADDING)
            await client.publish(f"load/{self.name}", payload, qos=self._qos, packet_id=packet_id)
            if self._qos == 1:
                await client.expect("PUBACK")
            else:
                await client.expect("PUBREC")
            self.acknowledged = number
            # However long the backup takes: some thousand messages, no more.
            await asyncio.sleep(0.01)
            if self._qos == 2:
                await client.send(mqtt_bytes.acknowledge("PUBREL", packet_id))
                await client.expect("PUBCOMP")


class Reader:
    """Takes what comes, and writes down the numbers by publisher."""

    def __init__(self, client: RawClient) -> None:
        self._client = client
        self.numbers: dict[str, list[int]] = {"one": [], "two": []}
        self.last = asyncio.Event()

    async def run(self) -> None:
        while True:
            packet = await self._client.receive()
            if packet.kind == "PUBREL":
                await self._client.send(mqtt_bytes.acknowledge("PUBCOMP", packet.packet_id))
                continue
            name, number, *_ = packet.payload.split(b" ")
            if name == b"last":
                self.last.set()
            else:
                self.numbers[name.decode()].append(int(number))
            answer = "PUBACK" if packet.qos == 1 else "PUBREC"
            await self._client.send(mqtt_bytes.acknowledge(answer, packet.packet_id))


async def _back_up(broker: Tidegate, target: Path) -> dict[str, object]:
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "tidegate", "backup", str(target), "--json"),
        *("--data-dir", str(broker.directory / "data")),
        stdout=asyncio.subprocess.PIPE,
    )
    output, _ = await process.communicate()
    done: dict[str, object] = json.loads(output.splitlines()[-1])
    assert done["phase"] == "done", done
    return done


async def _restore(source: Path, data_dir: Path) -> None:
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "tidegate", "restore", str(source), "--data-dir", str(data_dir)),
        stdout=asyncio.subprocess.DEVNULL,
    )
    assert await process.wait() == 0


@pytest.mark.slow
@pytest.mark.timeout(400)
async def test_every_queue_has_what_was_acknowledged_before_the_backup_and_nothing_twice(
    start_broker: StartBroker, tmp_path: Path
) -> None:
    limits = {"max_queued_messages": 100_000}
    first = start_broker(limits=limits)
    names = [f"sleeper{n}" for n in range(SLEEPERS)]
    for name in [*names, "awake"]:
        client = await _open(first, name)
        await client.subscribe(("load/#", 2))
        if name != "awake":
            await client.disconnect()
    awake = Reader(client)
    publishers = [
        Publisher(await _open(first, "publisher1"), "one", 1),
        Publisher(await _open(first, "publisher2"), "two", 2),
    ]
    async with asyncio.TaskGroup() as group:
        tasks = [group.create_task(one.run()) for one in publishers]
        tasks.append(group.create_task(awake.run()))
        while min(one.acknowledged for one in publishers) < 40:
            await asyncio.sleep(0.01)  # until there is something to read
        before = {one.name: one.acknowledged for one in publishers}
        done = await _back_up(first, tmp_path)
        after = {one.name: one.acknowledged + 1 for one in publishers}
        for task in tasks:
            task.cancel()
    assert after != before
    assert done["sessions"] == SLEEPERS + 3
    first.kill()

    directory = tmp_path / "restored"
    await _restore(tmp_path, directory)
    second = start_broker(limits=limits, store={"data_dir": str(directory)})
    readers = {name: Reader(await _open(second, name)) for name in [*names, "awake"]}
    writer = await _open(second, "writer")
    async with asyncio.TaskGroup() as group:
        tasks = [group.create_task(reader.run()) for reader in readers.values()]
        # What is published now comes behind what is queued.
        assert await writer.deliver("load/last", b"last 0", qos=2, packet_id=1) is not None
        for reader in readers.values():
            await reader.last.wait()
        for task in tasks:
            task.cancel()
    for name in names:
        for publisher, numbers in readers[name].numbers.items():
            assert numbers == list(range(1, len(numbers) + 1)), (name, publisher)
            assert before[publisher] <= len(numbers) <= after[publisher], (name, publisher)
    for publisher, numbers in readers["awake"].numbers.items():
        assert len(numbers) == len(set(numbers)), publisher
        assert numbers == sorted(numbers)
        missing = (
            set(range(1, before[publisher] + 1)) - set(numbers) - set(awake.numbers[publisher])
        )
        assert not missing, publisher
        assert set(numbers) <= set(range(1, after[publisher] + 1))
    with contextlib.suppress(ProcessLookupError):
        second.kill()
