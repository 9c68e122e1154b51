"""paho-mqtt's own MQTT 5 tests, from its source distribution, against the broker.

Each test of theirs is one of ours under its own name. Input: their package from the registry.
Output: their verdicts. Most of their time is waiting, so they run in several processes at once,
each with a broker of its own.
"""

from __future__ import annotations

import ast
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from support.broker import StartBroker
from support.paho_client import V5, V311, PahoClient
from support.suites import Verdict, run_suite
from support.tools import fetch_source_distribution

VERSION = "2.2.0"
FILE = "tests/test_mqttv5.py"

TESTS = (
    "Test::test_basic",
    "Test::test_client_topic_alias",
    "Test::test_connect_fail",
    "Test::test_maximum_packet_size",
    "Test::test_message_expiry",
    "Test::test_offline_message_queueing",
    "Test::test_overlapping_subscriptions",
    "Test::test_payload_format",
    "Test::test_request_response",
    "Test::test_retained_message",
    "Test::test_server_topic_alias",
    "Test::test_session_expiry",
    "Test::test_shared_subscriptions",
    "Test::test_subscribe_failure",
    "Test::test_subscribe_options",
    "Test::test_subscription_identifiers",
    "Test::test_unsubscribe",
    "Test::test_user_properties",
    "Test::test_will_delay",
    "Test::test_will_message",
    "Test::test_zero_length_clientid",
    "TestBrokerRebootsTopicAliiQoS0::test_qos0_client_reconnects_after_broker_reboots",
    "TestBrokerRebootsTopicAliiQoS1::test_qos1_client_reconnects_after_broker_reboots",
    "TestDropOutMessagesWorkAround::test_qos1_drop_messages_client_reconnects_after_broker_reboots",
)

# Their tests that may end in just this failure, each with the reason.
EXCEPTIONS = {
    # Their own broker is built to refuse the topic filter "test/nosubscribe", and they look for
    # that. Nothing forbids it here: the specification asks for one reason code per filter
    # [MQTT-3.8.4-6], [MQTT-3.9.3-2] and leaves it to the server which filters it grants (MQTT5
    # §3.9.3). Refusals are proven by test_a_filter_that_the_configuration_forbids_is_refused below.
    "Test::test_subscribe_failure": "'Granted QoS 2' != 'Unspecified error'",
}

# Their tests that they themselves expect to fail.
EXPECTED_FAILURES = (
    # A client that re-sends a message with a topic alias of the connection before is refused, for
    # aliases end with the connection [MQTT-3.3.2-7].
    "TestBrokerRebootsTopicAliiQoS1::test_qos1_client_reconnects_after_broker_reboots",
)

PROCESSES = 4


def _parts() -> list[list[str]]:
    """Deal their tests out to processes: first, one to each, those that must or should be first."""
    slow = ["test_session_expiry", "test_will_delay", "test_will_message", "test_payload_format"]
    first = [name for name in TESTS if name.startswith("Test::")]
    first.sort(key=lambda name: name.partition("::")[2] not in slow)
    # It starts a client's thread before it connects. A client that was used before may then find
    # its thread ended, and waits for ever; one that is new does not.
    first.remove("Test::test_offline_message_queueing")
    first.insert(0, "Test::test_offline_message_queueing")
    reboots = [name for name in TESTS if not name.startswith("Test::")]
    return [first[0::3], first[1::3], first[2::3], reboots]


@pytest.fixture(scope="module")
def source() -> Path:
    """Return their unpacked source distribution."""
    return fetch_source_distribution("paho-mqtt", VERSION)


@pytest.fixture(scope="module")
def verdicts(
    source: Path, request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> dict[str, Verdict]:
    """Run all of them once; each test below looks up one verdict."""
    results = tmp_path_factory.mktemp("paho")

    def run(number: int, names: list[str]) -> dict[str, Verdict]:
        return run_suite(
            source,
            source / "src",
            [f"{FILE}::{name}" for name in names],
            results / f"{number}.xml",
            plugin="support.paho_plugin",
            environment={"TIDEGATE_TEST_BROKER": request.config.getoption("--broker")},
        )

    parts = _parts()
    with ThreadPoolExecutor(PROCESSES) as pool:
        done = pool.map(run, range(len(parts)), parts)
    return {name: verdict for part in done for name, verdict in part.items()}


@pytest.mark.timeout(300)
@pytest.mark.parametrize("name", TESTS)
def test_paho(verdicts: dict[str, Verdict], name: str) -> None:
    verdict = verdicts[name]
    if name in EXCEPTIONS:
        assert EXCEPTIONS[name] in verdict.details
        return
    wanted = "failed as expected" if name in EXPECTED_FAILURES else "passed"
    assert verdict.outcome == wanted, verdict.details


def test_a_filter_that_the_configuration_forbids_is_refused(start_broker: StartBroker) -> None:
    broker = start_broker(features={"wildcard_subscriptions": False})
    with PahoClient(broker, "asks-5", protocol=V5) as client:
        assert client.subscribe("a/#", 1) == [0xA2]
        assert client.subscribe("a/b", 1) == [1]
    with PahoClient(broker, "asks-311", protocol=V311) as client:
        assert client.subscribe("a/#", 1) == [0x80]


def test_every_test_of_theirs_is_listed(source: Path) -> None:
    tree = ast.parse((source / FILE).read_text())
    theirs = [
        f"{group.name}::{test.name}"
        for group in tree.body
        if isinstance(group, ast.ClassDef)
        for test in group.body
        if isinstance(test, ast.FunctionDef) and test.name.startswith("test_")
    ]
    assert sorted(theirs) == sorted(TESTS)
