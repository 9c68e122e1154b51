"""What is measured: the options of mqload, and which of its figures are shown.

A peer that does not offer what a scenario needs is left out of it by name. No I/O.
"""

from __future__ import annotations

import shlex
from dataclasses import dataclass
from typing import Final, Literal

#: Peers as they are called on the command line.
NATS: Final = "nats"

CPU: Final = "broker_cpu_us_per_delivery"


@dataclass(slots=True, frozen=True)
class Figure:
    """A figure of mqload, in a row of the table."""

    key: str
    what: str
    #: A rate; otherwise less is better.
    higher_is_better: bool = False
    #: What the figure in the result is multiplied by to be in the unit of ``what``.
    factor: float = 1.0


PER_DELIVERY: Final = Figure(CPU, "µs of CPU per delivery")
P50: Final = Figure("p50_us", "p50, ms", factor=0.001)
P99: Final = Figure("p99_us", "p99, ms", factor=0.001)
PER_CONNECT: Final = Figure("cpu_us_per_conn", "µs of CPU per connection")
PER_S: Final = Figure("per_s", "per second", higher_is_better=True)
IDLE: Final = Figure("rss_kb_per_conn", "KiB per idle connection")


@dataclass(slots=True, frozen=True)
class Scenario:
    """One thing to play; ``figures[0]`` is the main one."""

    name: str
    title: str
    options: str
    figures: tuple[Figure, ...] = (PER_DELIVERY,)
    #: Brokers that do not offer it.
    not_for: frozenset[str] = frozenset()

    @property
    def listener(self) -> Literal["tcp", "ws", "tls"]:
        """Which listener of a broker it is played against."""
        words = shlex.split(self.options)
        if "-E" in words:
            return "tls"
        return "ws" if "-W" in words else "tcp"

    def words(self, scale: float) -> list[str]:
        """Return the options, with ``scale`` times as much work but for rates and payloads."""
        words = shlex.split(self.options)
        # Connections are the work of those that only connect.
        scaled = {"-n": 200, "-F": 100, "-t": 20}
        if "-C" in words:
            scaled = {"-P": 50}
        for at, word in enumerate(words[:-1]):
            if word in scaled:
                count = int(words[at + 1])
                words[at + 1] = str(max(min(count, scaled[word]), round(count * scale)))
        return words


_NOT_NATS: Final = frozenset({NATS})
_LATENCY: Final = (PER_DELIVERY, P50, P99)

_ALL: Final = (
    Scenario("A", "bursts, QoS 0, 10 pairs", "-n 200000 -P 10 -S 10 -x"),
    Scenario("B", "1 → 500, QoS 0", "-n 2000 -S 500 -w 20000"),
    Scenario("C", "QoS 1, 10 pairs", "-n 100000 -q 1 -P 10 -S 10 -x"),
    Scenario("D", "QoS 2, 10 pairs", "-n 50000 -q 2 -P 10 -S 10 -x", not_for=_NOT_NATS),
    Scenario("E", "2,000/s, 500 pairs", "-n 20000 -r 2000 -P 500 -S 500 -x", _LATENCY),
    Scenario("E10", "10,000/s, 500 pairs", "-n 60000 -r 10000 -P 500 -S 500 -x", _LATENCY),
    Scenario(
        "F",
        "durable sessions (mosquitto: in memory)",
        "-n 100000 -q 1 -P 10 -S 10 -x -D -V 5",
        not_for=_NOT_NATS,
    ),
    Scenario("G", "CONNECT", "-C -P 5000 -S 0", (PER_CONNECT, PER_S)),
    Scenario("H", "idle connections", "-C -P 15000 -S 0 -H 5", (IDLE,)),
    Scenario("I", "A over WebSocket", "-n 200000 -P 10 -S 10 -x -W", not_for=_NOT_NATS),
    Scenario("AT", "A over TLS", "-n 200000 -P 10 -S 10 -x -E"),
    Scenario("ET", "E over TLS", "-n 20000 -r 2000 -P 500 -S 500 -x -E", _LATENCY),
    Scenario("GT", "handshake and CONNECT", "-C -P 3000 -S 0 -E", (PER_CONNECT, PER_S)),
    Scenario("HT", "idle connections over TLS", "-C -P 5000 -S 0 -E -H 5", (IDLE,)),
    Scenario("T5", "A, 5,000 topics in rotation", "-n 200000 -P 10 -S 10 -x -t 5000"),
    Scenario("T50", "A, 50,000 topics in rotation", "-n 200000 -P 10 -S 10 -x -t 50000"),
    Scenario("N1", "1,000 → 1, QoS 0", "-n 200000 -P 1000 -S 1"),
    Scenario("P64", "payload 64 B", "-n 100000 -P 10 -S 10 -x -s 64 -w 200"),
    Scenario("P1K", "payload 1 KiB", "-n 100000 -P 10 -S 10 -x -s 1024 -w 200"),
    Scenario("P16K", "payload 16 KiB", "-n 20000 -P 10 -S 10 -x -s 16384 -w 200"),
    Scenario("P256K", "payload 256 KiB", "-n 2000 -P 10 -S 10 -x -s 262144 -w 20"),
    Scenario("P1M", "payload 1 MiB", "-n 500 -P 10 -S 10 -x -s 1048576 -w 10"),
    Scenario(
        "SH",
        "shared subscription, QoS 1, 10 members",
        "-n 50000 -q 1 -P 10 -S 10 -g workers",
        not_for=_NOT_NATS,
    ),
    Scenario(
        "DR",
        "100,000 queued, drained",
        "-n 100000 -q 1 -P 10 -S 1 -B -i 100",
        (
            PER_DELIVERY,
            PER_S,
            Figure("queue_cpu_us_per_message", "µs of CPU to queue a message"),
        ),
        not_for=_NOT_NATS,
    ),
    Scenario(
        "SU",
        "SUBSCRIBE, 10 clients, 5,000 filters each",
        "-P 0 -S 10 -F 5000",
        (
            Figure("cpu_us_per_filter", "µs of CPU per filter"),
            Figure("cpu_us_per_filter_after_suback", "of these after SUBACK"),
        ),
    ),
)

SCENARIOS: Final[dict[str, Scenario]] = {scenario.name: scenario for scenario in _ALL}


def chosen(names: str) -> list[Scenario]:
    """Return the scenarios of a list with commas; ValueError names one that does not exist."""
    found = []
    for name in names.split(","):
        if name not in SCENARIOS:
            raise ValueError(f"no scenario {name!r}; there are {', '.join(SCENARIOS)}")
        found.append(SCENARIOS[name])
    return found
