"""Work of fixed input, counted: ``python bench/counted.py``.

Prints, for each piece of work on the codec, the topic index and the window, how many bytecode
instructions it executes and how many functions it calls (C functions included). Neither depends
on the machine, on its load or on how Python was built, only on Python's minor version, so a change
is a change of the code. ``--write`` puts the figures of this Python into ``bench/counted.json``,
with which tests/unit/bench/test_counted.py compares. What a C function does is not counted.
"""

from __future__ import annotations

import gc
import json
import os
import sys
from collections.abc import Callable
from pathlib import Path
from types import FrameType
from typing import Any, Final

from tidegate.core.second_chance import SecondChance
from tidegate.core.topic_index import TopicIndex
from tidegate.core.window import DurableFeed, MemoryQueue, Window
from tidegate.mqtt.connection import ConnectionSettings, ServerConnection
from tidegate.mqtt.encode import encode, encode_ack, encode_publish
from tidegate.mqtt.enums import ProtocolVersion
from tidegate.mqtt.packets import (
    Connect,
    Packet,
    Properties,
    PubAck,
    Publish,
    Subscribe,
    SubscriptionOptions,
    Will,
)
from tidegate.mqtt.properties import forwarded_properties

BOUNDS: Final = Path(__file__).with_suffix(".json")
#: Of each packet, message or topic in one piece of work.
COUNT: Final = 200
TOPIC: Final = "fleet/d1234/telemetry/temperature"
PAYLOAD: Final = bytes(64)

Work = Callable[[], object]
#: Makes what a piece of work needs, which is not counted, and returns the work.
Preparation = Callable[[], Work]


def receive(version: ProtocolVersion, packet: Packet, size: int = 0) -> Preparation:
    """Decode ``COUNT`` packets that come in one chunk, or in chunks of ``size`` bytes."""
    chunk = encode(packet, version) * COUNT

    def prepare() -> Work:
        names: SecondChance[bytes, str] = SecondChance(1000)
        connection = ServerConnection(ConnectionSettings(topic_alias_maximum=10, names=names))
        connection.receive(encode(Connect("c", version), version))
        return lambda: [
            connection.receive(chunk[at : at + (size or len(chunk))])
            for at in range(0, len(chunk), size or len(chunk))
        ]

    return prepare


def connect() -> Work:
    """Decode CONNECT packets that use what there is."""
    packet = Connect(
        "client-1",
        username="user",
        password=b"secret",
        will=Will("gone/client-1", b"x", 1),
        properties=Properties(session_expiry_interval=3600, receive_maximum=100),
    )
    wire = encode(packet, ProtocolVersion.V5)
    connections = [ServerConnection() for _ in range(COUNT)]
    return lambda: [connection.receive(wire) for connection in connections]


def encoded(version: int, qos: int, packet_id: int) -> Preparation:
    """Encode a message for as many receivers."""
    message = Publish(TOPIC, PAYLOAD, 0)
    return lambda: (
        lambda: [
            encode_publish(message, version, qos, False, False, packet_id) for _ in range(COUNT)
        ]
    )


def acknowledgements() -> Work:
    """Encode PUBACKs."""
    return lambda: [encode_ack(0x40, packet_id, 0, 5) for packet_id in range(1, COUNT + 1)]


def _index() -> TopicIndex[int, int]:
    index: TopicIndex[int, int] = TopicIndex()
    for number in range(COUNT):
        for key, name in enumerate(("cmd", "config", "+/set", "rpc/#")):
            index.add(f"fleet/d{number}/{name}", key, 0)
    index.add("fleet/+/alarm/#", 9, 0)
    return index


def _topics() -> list[str]:
    names = ("cmd", "lamp/set", "rpc/1/call", "alarm/high")
    return [f"fleet/d{number}/{names[number % 4]}" for number in range(COUNT)]


def index_fill() -> Work:
    """Subscribe: four filters for each of ``COUNT`` devices, half of them with wildcards."""
    return _index


def index_match_first() -> Work:
    """Match topics that have not been matched before."""
    index, topics = _index(), _topics()
    return lambda: [index.match(topic) for topic in topics]


def index_match_again() -> Work:
    """Match topics that have been matched."""
    index, topics = _index(), _topics()
    for topic in topics:
        index.match(topic)
    return lambda: [index.match(topic) for topic in topics]


def index_churn() -> Work:
    """Subscribe to a filter with a wildcard and unsubscribe from it."""
    index = _index()

    def work() -> None:
        for number in range(COUNT):
            index.add(f"fleet/d{number}/+/x", -1, 0)
            index.remove(f"fleet/d{number}/+/x", -1)

    return work


def window_qos1() -> Work:
    """Send messages with QoS 1, 20 in flight, and take their PUBACKs."""
    window: Window[bytes] = Window(20)

    def work() -> None:
        for first in range(1, COUNT, 20):
            for seq in range(first, first + window.room()):
                window.start(seq, 1, PAYLOAD)
            for packet_id in range(first, first + 20):
                window.on_puback(packet_id)

    return work


def window_qos2() -> Work:
    """Send messages with QoS 2 to the end of their exchanges."""
    window: Window[bytes] = Window(20)

    def work() -> None:
        for seq in range(1, COUNT + 1):
            packet_id = window.start(seq, 2, PAYLOAD)
            window.on_pubrec(packet_id)
            window.on_pubcomp(packet_id)

    return work


def memory_queue() -> Work:
    """Queue messages for a client that is slow, and take them."""
    queue: MemoryQueue[bytes] = MemoryQueue(1000, 1_000_000)

    def work() -> None:
        for _ in range(COUNT):
            queue.offer(PAYLOAD, 64)
        while queue.take() is not None:
            pass

    return work


def feed_pushes() -> Work:
    """Take pushes in order while there is room."""
    feed: DurableFeed[bytes] = DurableFeed(64)
    feed.begin(0)
    return lambda: [feed.pushed(seq, PAYLOAD, 20, 64) for seq in range(1, COUNT + 1)]


def feed_fetches() -> Work:
    """Read a backlog from the store, 20 entries at a time."""
    feed: DurableFeed[bytes] = DurableFeed(64)
    feed.resume((), COUNT)

    def work() -> None:
        while (after := feed.wants_fetch(20)) is not None:
            feed.fetch_started()
            last = min(after + 20, COUNT)
            entries = [(seq, PAYLOAD) for seq in range(after + 1, last + 1)]
            feed.fetched(entries, last == COUNT)

    return work


V311, V5 = ProtocolVersion.V311, ProtocolVersion.V5
_USER = forwarded_properties(
    Properties(user_properties=(("trace", "0123456789abcdef"), ("unit", "celsius")))
)
WORKS: Final[dict[str, Preparation]] = {
    "codec: PUBLISH QoS 0, 3.1.1": receive(V311, Publish(TOPIC, PAYLOAD, 0)),
    "codec: PUBLISH QoS 0, 5.0": receive(V5, Publish(TOPIC, PAYLOAD, 0)),
    "codec: PUBLISH QoS 1, 3.1.1": receive(V311, Publish(TOPIC, PAYLOAD, 1, packet_id=7)),
    "codec: PUBLISH QoS 1, 5.0": receive(V5, Publish(TOPIC, PAYLOAD, 1, packet_id=7)),
    "codec: PUBLISH QoS 1, 5.0, user properties": receive(
        V5, Publish(TOPIC, PAYLOAD, 1, packet_id=7, properties=_USER)
    ),
    "codec: PUBLISH QoS 1, in pieces": receive(V5, Publish(TOPIC, PAYLOAD, 1, packet_id=7), 50),
    "codec: PUBACK": receive(V5, PubAck(7)),
    "codec: SUBSCRIBE": receive(V5, Subscribe(1, [("a/+/c", SubscriptionOptions(1))])),
    "codec: CONNECT": connect,
    "codec: encode PUBLISH QoS 0, 3.1.1": encoded(4, 0, 0),
    "codec: encode PUBLISH QoS 1, 5.0": encoded(5, 1, 7),
    "codec: encode PUBACK": acknowledgements,
    "topic index: subscribe": index_fill,
    "topic index: match, first": index_match_first,
    "topic index: match, again": index_match_again,
    "topic index: subscribe and unsubscribe": index_churn,
    "window: QoS 1": window_qos1,
    "window: QoS 2": window_qos2,
    "window: queue in memory": memory_queue,
    "window: pushes": feed_pushes,
    "window: fetches": feed_fetches,
}


def instructions(work: Work) -> int:
    """Count the bytecode instructions that a call of ``work`` executes."""
    return _monitored(work) if hasattr(sys, "monitoring") else _traced(work)


def _monitored(work: Work) -> int:
    """From Python 3.12."""
    count = 0

    def on_instruction(_: object, __: int) -> None:
        nonlocal count
        count += 1

    monitoring: Any = sys.monitoring  # type: ignore[attr-defined, unused-ignore]  # from 3.12
    tool, event = monitoring.PROFILER_ID, monitoring.events.INSTRUCTION
    monitoring.use_tool_id(tool, "counted")
    monitoring.register_callback(tool, event, on_instruction)
    monitoring.set_events(tool, event)
    try:
        work()
    finally:
        monitoring.set_events(tool, 0)
        monitoring.register_callback(tool, event, None)
        monitoring.free_tool_id(tool)
    return count


def _traced(work: Work) -> int:
    """In Python 3.11."""
    count = 0

    def trace(frame: FrameType, event: str, _: Any) -> Any:
        nonlocal count
        frame.f_trace_opcodes = True
        frame.f_trace_lines = False
        count += event == "opcode"
        return trace

    sys.settrace(trace)
    try:
        work()
    finally:
        sys.settrace(None)
    return count


def calls(work: Work) -> int:
    """Count the functions that a call of ``work`` calls, in Python and in C."""
    count = 0

    def profile(_: FrameType, event: str, __: Any) -> None:
        nonlocal count
        count += event in {"call", "c_call"}

    sys.setprofile(profile)
    try:
        work()
    finally:
        sys.setprofile(None)
    return count


def counted() -> dict[str, dict[str, int]]:
    """Count every piece of work, after each has run once."""
    figures = {}
    gc.disable()
    for name, prepare in WORKS.items():
        prepare()()
        figures[name] = {"instructions": instructions(prepare()), "calls": calls(prepare())}
    return figures


def python_version() -> str:
    """Return the version that the figures belong to."""
    return f"{sys.version_info.major}.{sys.version_info.minor}"


def main() -> None:
    """Print the figures, or write them down."""
    if os.environ.get("PYTHONHASHSEED") != "0":
        # The order in a set of strings depends on it.
        os.environ["PYTHONHASHSEED"] = "0"
        os.execv(sys.executable, [sys.executable, *sys.argv])
    figures = counted()
    if sys.argv[1:] != ["--write"]:
        print(json.dumps(figures, indent=1))
        return
    known = json.loads(BOUNDS.read_text()) if BOUNDS.exists() else {}
    known[python_version()] = figures
    BOUNDS.write_text(json.dumps(known, indent=1, sort_keys=True) + "\n")


if __name__ == "__main__":
    main()
