"""``python -m tidegate_operator.smoke``: the check that `helm test` runs in a pod.

Checks the readiness of the operator through its Service: MqttBrokers can be listed, and all watches
are up. With ``--broker``, waits until it is Ready, then publishes and subscribes through its
Service, like a client in the cluster. Prints a line for each check; exit code 1 and the reason for
the first one that fails.
"""

# ruff: noqa: T201 - printing is the job

from __future__ import annotations

import argparse
import asyncio
import contextlib
import os
import secrets
import ssl
import sys
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass
from typing import Any, Final

import aiohttp

from tidegate.mqtt.decode import decode_packet
from tidegate.mqtt.encode import encode
from tidegate.mqtt.enums import ProtocolVersion, ReasonCode
from tidegate.mqtt.errors import MqttError
from tidegate.mqtt.packets import (
    ConnAck,
    Connect,
    Disconnect,
    Packet,
    PubAck,
    Publish,
    SubAck,
    Subscribe,
    SubscriptionOptions,
)
from tidegate_operator import names
from tidegate_operator.handlers import log_in
from tidegate_operator.kube.client import KubeApi, object_path
from tidegate_operator.kube.interface import KubeError, KubeUnavailable
from tidegate_operator.plan import ObjectRef
from tidegate_operator.spec.broker import MqttBrokerSpec
from tidegate_operator.spec.client_services import service_name
from tidegate_operator.spec.listeners import ListenerSpec
from tidegate_operator.spec.problems import SpecError, parse
from tidegate_operator.spec.status import Reason

PAUSE_S: Final = 1.0
#: Timeout of one MQTT exchange.
EXCHANGE_S: Final = 15.0
_MAX_PACKET_BYTES: Final = 65_536
_CREDENTIALS_REQUIRED: Final = frozenset(
    {ReasonCode.NOT_AUTHORIZED, ReasonCode.BAD_USER_NAME_OR_PASSWORD}
)


class CheckFailed(Exception):
    """A check has failed; the message says why."""


@dataclass(slots=True, frozen=True)
class BrokerEndpoint:
    """Address of a broker's listener. ``tls`` None: without TLS."""

    host: str
    port: int
    tls: ssl.SSLContext | None


# The operator


async def operator_is_ready(http: aiohttp.ClientSession, url: str) -> str:
    """Return the text of the operator's readiness. Raises CheckFailed."""
    try:
        async with http.get(f"{url}/readyz") as response:
            text = (await response.text()).strip()
            if response.status != 200:
                raise CheckFailed(f"operator is not ready: {text}")
            return text
    except (OSError, aiohttp.ClientError) as error:
        raise CheckFailed(
            f"operator does not respond at {url}: {error or 'no response'}"
        ) from error


# The broker


def is_ready(broker: dict[str, Any]) -> bool:
    """Return whether a broker is Ready at its current generation. Raises CheckFailed."""
    status = broker.get("status") or {}
    conditions = {condition["type"]: condition for condition in status.get("conditions") or []}
    ready, stalled = conditions.get("Ready"), conditions.get("Stalled", {})
    name = broker["metadata"]["name"]
    if ready is None or ready["reason"] == Reason.NOT_OBSERVED:
        raise CheckFailed(f"MqttBroker {name} has no status yet; is its namespace watched?")
    if stalled.get("status") == "True":
        raise CheckFailed(f"MqttBroker {name}: {stalled['reason']}: {stalled['message']}")
    if ready.get("observedGeneration", 0) < broker["metadata"].get("generation", 0):
        raise CheckFailed(f"MqttBroker {name} has changed and is not reconciled yet")
    if ready["status"] != "True":
        raise CheckFailed(f"MqttBroker {name} is not Ready ({ready['reason']}): {ready['message']}")
    return True


def listener_of(name: str, spec: MqttBrokerSpec) -> ListenerSpec | None:
    """Return a listener that a plain MQTT client in the cluster can use, None without one."""
    for listener in spec.listeners:
        needs_certificate = (
            listener.tls is not None and listener.tls.client_certificates == "required"
        )
        if (
            listener.protocol in {"tcp", "tls", "auto"}
            and listener.proxy_protocol != "required"
            and not needs_certificate
            and service_name(name, listener)
        ):
            return listener
    return None


async def endpoint_of(
    api: KubeApi, namespace: str, name: str, listener: ListenerSpec
) -> BrokerEndpoint:
    """Return the address of a listener. A self-signed certificate is verified, others are not: they
    are for external names. Raises CheckFailed, KubeError, KubeUnavailable.
    """
    tls = None
    if listener.tls is not None:
        tls = ssl.create_default_context()
        if listener.tls.self_signed:
            config_map = await api.read(
                ObjectRef("v1", "ConfigMap", names.authorities_map(name)), namespace
            )
            if config_map is None:
                raise CheckFailed(f"ConfigMap {names.authorities_map(name)} not found")
            tls = ssl.create_default_context(cadata=config_map["data"]["ca.crt"])
        else:
            tls.check_hostname = False
            tls.verify_mode = ssl.CERT_NONE
    host = f"{service_name(name, listener)}.{namespace}.svc"
    return BrokerEndpoint(host, listener.exposed_port, tls)


class _MqttClient:
    """A minimal MQTT 5 client."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader = reader
        self._writer = writer

    async def send(self, packet: Packet) -> None:
        self._writer.write(encode(packet, ProtocolVersion.V5))
        await self._writer.drain()

    async def receive(self) -> Packet:
        first = (await self._reader.readexactly(1))[0]
        length = shift = 0
        while True:
            byte = (await self._reader.readexactly(1))[0]
            length |= (byte & 0x7F) << shift
            shift += 7
            if byte < 0x80 or shift > 21:
                break
        if length > _MAX_PACKET_BYTES:
            raise CheckFailed(f"received a packet of {length} bytes")
        body = await self._reader.readexactly(length)
        return decode_packet(first, body, ProtocolVersion.V5)


@contextlib.asynccontextmanager
async def _connected(endpoint: BrokerEndpoint) -> AsyncIterator[_MqttClient]:
    server_name = endpoint.host if endpoint.tls is not None else None
    reader, writer = await asyncio.open_connection(
        endpoint.host, endpoint.port, ssl=endpoint.tls, server_hostname=server_name
    )
    try:
        yield _MqttClient(reader, writer)
    finally:
        writer.close()
        with contextlib.suppress(OSError):
            await writer.wait_closed()


async def exchange(endpoint: BrokerEndpoint) -> str:
    """Publish a message and receive it; return the result. Raises CheckFailed."""
    where = f"{endpoint.host} port {endpoint.port}"
    try:
        async with asyncio.timeout(EXCHANGE_S), _connected(endpoint) as client:
            return await _publish_and_receive(client)
    except (OSError, EOFError, MqttError) as error:
        raise CheckFailed(f"{where}: {error or type(error).__name__}") from error


async def _publish_and_receive(client: _MqttClient) -> str:
    topic = f"tidegate/test/{secrets.token_hex(8)}"
    await client.send(Connect(f"tidegate-test-{secrets.token_hex(4)}", keep_alive=60))
    response = await client.receive()
    if not isinstance(response, ConnAck):
        raise CheckFailed(f"expected CONNACK, got {type(response).__name__}")
    if response.reason_code in _CREDENTIALS_REQUIRED:
        return "broker responds; CONNECT requires credentials"
    if response.reason_code:
        raise CheckFailed(f"CONNECT rejected: reason code 0x{response.reason_code:02X}")
    qos = 0 if response.properties.maximum_qos == 0 else 1
    await client.send(Subscribe(1, [(topic, SubscriptionOptions(qos=qos))]))
    payload = secrets.token_bytes(16)
    await client.send(Publish(topic, payload, qos=qos, packet_id=2 if qos else 0))
    acknowledged: set[type] = set() if qos else {PubAck}
    while True:
        response = await client.receive()
        match response:
            case SubAck(reason_codes=[code, *_]) if code >= 0x80:
                return "CONNECT accepted; the ACL does not allow the test topic"
            case PubAck(reason_code=code) if code >= 0x80:
                return "CONNECT accepted; the ACL does not allow the test topic"
            case SubAck() | PubAck():
                acknowledged.add(type(response))
            case Publish() if response.payload == payload:
                if response.qos:
                    await client.send(PubAck(response.packet_id))
                acknowledged.add(Publish)
            case Disconnect():
                raise CheckFailed(
                    f"broker sent DISCONNECT: reason code 0x{response.reason_code:02X}"
                )
        if acknowledged == {SubAck, PubAck, Publish}:
            await client.send(Disconnect())
            return f"published and received a message with QoS {qos}"


async def broker_answers(namespace: str, name: str) -> str:
    """Check a broker; return the result. Raises CheckFailed."""
    try:
        async with KubeApi(log_in) as api:
            path = object_path(names.API_VERSION, names.KIND, namespace, name)
            broker = await api.get(path)
            if broker is None:
                raise CheckFailed(f"MqttBroker {name} not found in namespace {namespace}")
            is_ready(broker)
            listener = listener_of(name, parse(name, broker["spec"]))
            if listener is None:
                return "Ready; no listener accepts plain MQTT clients, publishing not checked"
            endpoint = await endpoint_of(api, namespace, name, listener)
    except (KubeError, KubeUnavailable) as error:
        raise CheckFailed(f"API server: {error}") from error
    except SpecError as error:
        raise CheckFailed(f"invalid spec: {error}") from error
    return f"listener {listener.name}: {await exchange(endpoint)}"


# The command


def parser() -> argparse.ArgumentParser:
    """Return the parser of the command line."""
    command = argparse.ArgumentParser(
        "tidegate_operator.smoke", description="Check an installation."
    )
    add = command.add_argument
    add(
        "--operator",
        required=True,
        metavar="URL",
        help="Admin URL of the operator: http://HOST:PORT",
    )
    add("--namespace", default="default", help="Namespace of the broker")
    add("--broker", default="", metavar="NAME", help="Name of the broker to check")
    add("--timeout-s", type=float, default=240.0, help="Timeout of all checks, in seconds")
    return command


async def check(arguments: argparse.Namespace) -> None:
    """Run all checks. Raises CheckFailed with the last reason."""
    until_s = asyncio.get_running_loop().time() + arguments.timeout_s
    async with aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=5)) as http:
        url = arguments.operator.rstrip("/")
        await _retry("operator", until_s, lambda: operator_is_ready(http, url))
    if arguments.broker:
        await _retry(
            "broker", until_s, lambda: broker_answers(arguments.namespace, arguments.broker)
        )


async def _retry(what: str, until_s: float, check: Callable[[], Awaitable[str]]) -> None:
    loop = asyncio.get_running_loop()
    while True:
        try:
            print(f"{what}: {await check()}", flush=True)
        except CheckFailed:
            if loop.time() + PAUSE_S > until_s:
                raise
        else:
            return
        await asyncio.sleep(PAUSE_S)


def main(arguments: list[str]) -> int:
    """Run all checks; return the exit code."""
    os.environ.setdefault("LOGNAME", "tidegate")
    try:
        asyncio.run(check(parser().parse_args(arguments)))
    except CheckFailed as error:
        print(f"FAILED: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
