"""gmqtt's own MQTT 5 tests, from its source distribution, against the broker.

Each test of theirs is one of ours under its own name. Input: their package from the registry.
Output: their verdicts. Nearly all of their time is sleep and each process has topics of its own, so
they run in several at once.
"""

from __future__ import annotations

import ast
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from support.broker import Server
from support.certificates import Certificates
from support.suites import Verdict, run_suite
from support.tools import fetch_source_distribution

VERSION = "0.8.0"
FILE = "tests/test_mqtt5.py"

TESTS = (
    "test_assigned_clientid",
    "test_basic",
    "test_basic_ssl",
    "test_basic_subscriptions",
    "test_no_will_message_on_gentle_disconnect",
    "test_overlapping_subscriptions",
    "test_reconnection_with_failure",
    "test_redelivery_on_reconnect",
    "test_request_response",
    "test_retained_message",
    "test_shared_subscriptions",
    "test_subscribe_no_local",
    "test_subscribe_retain_01_handling_flag",
    "test_subscribe_retain_2_handling_flag",
    "test_unsubscribe",
    "test_will_message",
)

# Their tests that may end in just this failure, each with the reason.
EXCEPTIONS = {
    # Their client replaces an empty client identifier by one of its own before it connects, so that
    # there is nothing to assign: the server assigns one, and says so, to a client that sends none
    # [MQTT-3.2.2-16], [MQTT-3.1.3-7]. test_against_mosquitto.py has that case.
    "test_assigned_clientid": "'assigned_client_identifier'",
}

PROCESSES = 6


@pytest.fixture(scope="module")
def source() -> Path:
    """Return their unpacked source distribution."""
    return fetch_source_distribution("gmqtt", VERSION)


@pytest.fixture(scope="module")
def verdicts(
    source: Path,
    broker: Server,
    certificates: Certificates,
    tmp_path_factory: pytest.TempPathFactory,
) -> dict[str, Verdict]:
    """Run all of them once; each test below looks up one verdict."""
    results = tmp_path_factory.mktemp("gmqtt")
    environment = {
        "HOST": "127.0.0.1",
        "PORT": str(broker.address("tcp").port),
        "TLS_PORT": str(broker.address("tls").port),
        "SSL_CERT_FILE": str(certificates.authority.certificate),
        "USERNAME": "",
    }

    def run(number: int) -> dict[str, Verdict]:
        return run_suite(
            source,
            source,
            [f"{FILE}::{name}" for name in TESTS[number::PROCESSES]],
            results / f"{number}.xml",
            plugin="support.gmqtt_plugin",
            environment=environment,
        )

    with ThreadPoolExecutor(PROCESSES) as pool:
        done = pool.map(run, range(PROCESSES))
    return {name.partition("::")[2]: v for part in done for name, v in part.items()}


@pytest.mark.timeout(300)
@pytest.mark.parametrize("name", TESTS)
def test_gmqtt(verdicts: dict[str, Verdict], name: str) -> None:
    verdict = verdicts[name]
    if name in EXCEPTIONS:
        assert EXCEPTIONS[name] in verdict.details
        return
    assert verdict.outcome == "passed", verdict.details


def test_every_test_of_theirs_is_listed(source: Path) -> None:
    tree = ast.parse((source / FILE).read_text())
    theirs = [
        node.name
        for node in tree.body
        if isinstance(node, ast.AsyncFunctionDef | ast.FunctionDef)
        and node.name.startswith("test_")
    ]
    assert sorted(theirs) == sorted(TESTS)
