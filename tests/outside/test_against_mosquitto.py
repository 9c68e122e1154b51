"""The same scenarios against the broker and against mosquitto 2.0, the traces compared.

Input: scripts of raw packets (tests/support/scenarios.py). Output: every packet that came back.
Where the two differ, DIFFERENCES has the lines, and docs/differences-from-mosquitto.md gives the
reason under the same heading, for people who move from one to the other.
"""

from __future__ import annotations

import asyncio
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from support.broker import Server
from support.certificates import Certificates
from support.mosquitto import Mosquitto
from support.scenarios import SCENARIOS
from support.traces import compare, play


@dataclass(slots=True, frozen=True)
class Difference:
    """One decision that differs: its heading in the document, and the lines that show it."""

    heading: str
    scenario: str
    lines: tuple[str, ...]


DIFFERENCES = (
    Difference(
        "Announced limits",
        "connecting",
        (
            "- every version | five: CONNACK 0x00 receive_maximum=20 server_keep_alive=65535"
            " topic_alias_maximum=10",
            "+ every version | five: CONNACK 0x00 maximum_packet_size=1048576 receive_maximum=100"
            " topic_alias_maximum=10",
        ),
    ),
    Difference(
        "DISCONNECT with a reason",
        "unacceptable_connects",
        (
            "- bad | level-6: against the specification: reason code 0x01 is not one of CONNACK",
            "+ bad | level-6: CONNACK 0x84",
            "+ bad | reserved-flag: CONNACK 0x81",
            "+ AUTH out of the blue | auth: DISCONNECT 0x82",
        ),
    ),
    Difference(
        "DISCONNECT with a reason", "a_second_connect", ("+ second | twice: DISCONNECT 0x82",)
    ),
    Difference("DISCONNECT with a reason", "takeover", ("+ new | five-old: DISCONNECT 0x8e",)),
    Difference(
        "DISCONNECT with a reason",
        "malformed_packets",
        (
            "+ send | connack: DISCONNECT 0x82",
            "+ send | disconnect-flags: DISCONNECT 0x81",
            "+ send | length-5: DISCONNECT 0x81",
            "+ send | property-twice: DISCONNECT 0x82",
            "+ send | pubrel-flags: DISCONNECT 0x81",
        ),
    ),
    Difference(
        "Overlapping subscriptions",
        "overlapping_subscriptions",
        (
            "- release | c: PUBLISH a/b qos2 x subscription_identifier=300",
            "- release | c: PUBLISH a/b qos1 x subscription_identifier=200",
            "- release | c: PUBLISH a/b qos0 x subscription_identifier=100",
            "+ publish | c: PUBLISH a/b qos2 x subscription_identifier=100"
            " subscription_identifier=200 subscription_identifier=300",
        ),
    ),
    Difference(
        "When a QoS 2 message is forwarded",
        "redelivery",
        (
            "- delivered, not acknowledged | c: PUBLISH t qos2 two",
            "+ publish | c: PUBLISH t qos2 two",
        ),
    ),
    Difference(
        "Shared subscriptions",
        "shared_subscriptions",
        (
            "- share: no retained messages | a: PUBLISH s qos1 kept retain",
            "- share with no local | a: SUBACK 0x00",
            "- share with no local | a: PUBLISH s qos0 kept retain",
            "+ share with no local | a: DISCONNECT 0x82",
            "+ share with no local | a: closed",
        ),
    ),
    Difference(
        "Shared subscriptions",
        "bad_filters",
        (
            "- subscribe | group: SUBACK 0x00",
            "+ subscribe | group: DISCONNECT 0x8f",
            "+ subscribe | group: closed",
            "- subscribe | group-only: SUBACK 0x00",
            "+ subscribe | group-only: DISCONNECT 0x8f",
            "+ subscribe | group-only: closed",
        ),
    ),
    Difference(
        "Reason codes",
        "bad_filters",
        (
            *("- subscribe | empty: DISCONNECT 0x81", "+ subscribe | empty: DISCONNECT 0x8f"),
            *("- subscribe | group-plus: DISCONNECT 0x81",),
            *("+ subscribe | group-plus: DISCONNECT 0x8f",),
            *("- subscribe | hash: DISCONNECT 0x81", "+ subscribe | hash: DISCONNECT 0x8f"),
            *("- subscribe | none: DISCONNECT 0x81", "+ subscribe | none: DISCONNECT 0x82"),
            *("- subscribe | plus: DISCONNECT 0x81", "+ subscribe | plus: DISCONNECT 0x8f"),
            *("- subscribe | qos-3: DISCONNECT 0x81", "+ subscribe | qos-3: DISCONNECT 0x82"),
        ),
    ),
    Difference(
        "Reason codes",
        "bad_publishes",
        (
            *("- publish | alias-0: DISCONNECT 0x81", "+ publish | alias-0: DISCONNECT 0x94"),
            *("- publish | id-0: DISCONNECT 0x82", "+ publish | id-0: DISCONNECT 0x81"),
            *("- publish | wildcard: DISCONNECT 0x82", "+ publish | wildcard: DISCONNECT 0x90"),
        ),
    ),
    Difference(
        "Reason codes",
        "malformed_packets",
        (
            *("- send | type-0: DISCONNECT 0x82", "+ send | type-0: DISCONNECT 0x81"),
            "- send | unsubscribe-none: DISCONNECT 0x81",
            "+ send | unsubscribe-none: DISCONNECT 0x82",
        ),
    ),
    Difference(
        "Rules that mosquitto does not check",
        "bad_publishes",
        (
            *("+ publish | dup-qos-0: DISCONNECT 0x81", "+ publish | dup-qos-0: closed"),
            *("+ publish | identifier: DISCONNECT 0x82", "+ publish | identifier: closed"),
            *("+ publish | response: DISCONNECT 0x82", "+ publish | response: closed"),
        ),
    ),
    Difference(
        "Rules that mosquitto does not check",
        "malformed_packets",
        (
            "- send | ping-body: PINGRESP",
            "+ send | ping-body: DISCONNECT 0x81",
            "+ send | ping-body: closed",
        ),
    ),
    Difference(
        "Reason codes in acknowledgements",
        "acknowledgements",
        (
            *("- nobody subscribes | c: PUBREC 0x00", "+ nobody subscribes | c: PUBREC 0x10"),
            *("- release again | c: PUBCOMP 0x00", "+ release again | c: PUBCOMP 0x92"),
            *("- PUBREC of nothing | c: PUBREL 0x00", "+ PUBREC of nothing | c: PUBREL 0x92"),
        ),
    ),
)

DOCUMENT = Path(__file__).parents[2] / "docs" / "differences-from-mosquitto.md"


@pytest.fixture(scope="module")
def mosquitto(certificates: Certificates) -> Iterator[Server]:
    """Yield the reference."""
    with tempfile.TemporaryDirectory(prefix="tg-", ignore_cleanup_errors=True) as name:
        server = Mosquitto(Path(name).resolve(), certificates.server, certificates.authority)
        try:
            server.start()
            yield server
        finally:
            server.cleanup()


@pytest.fixture(scope="module")
def traces(broker: Server, mosquitto: Server) -> dict[str, tuple[list[str], list[str]]]:
    """Play all scenarios against both at the same time; they share no topic and no client."""

    async def play_all() -> list[list[str]]:
        return await asyncio.gather(
            *(play(server, one) for one in SCENARIOS.values() for server in (mosquitto, broker))
        )

    fake = asyncio.run(play_all())
    pairs = zip(fake[0::2], fake[1::2], strict=True)
    return dict(zip(SCENARIOS, pairs, strict=True))


@pytest.mark.parametrize("name", SCENARIOS)
def test_the_trace_is_mosquittos_but_for_what_is_explained(
    traces: dict[str, tuple[list[str], list[str]]], name: str
) -> None:
    reference, ours = traces[name]
    explained = [line for one in DIFFERENCES if one.scenario == name for line in one.lines]
    found = compare(reference, ours)
    assert sorted(found) == sorted(explained), "\n".join(
        [*found, "mosquitto:", *reference, "ours:", *ours]
    )


@pytest.mark.parametrize("heading", sorted({one.heading for one in DIFFERENCES}))
def test_the_document_explains_the_difference(heading: str) -> None:
    assert f"## {heading}\n" in DOCUMENT.read_text()
