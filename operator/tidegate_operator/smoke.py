"""``python -m tidegate_operator.smoke``: what `helm test` runs in a pod of its own.

Asks the operator through its Service whether it is ready, which says that MqttBrokers are served
and that everything is watched. If a broker is named, waits until it is Ready, and then publishes
and subscribes through the broker's Service, as a client in the cluster does. Prints a line for each
thing that it has seen; exit code 1 and a sentence for the first one that is not so.
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
from tidegate_operator.spec.listeners import ListenerSpec
from tidegate_operator.spec.problems import SpecError, parse

PAUSE_S: Final = 1.0
#: One exchange with a broker that is there takes milliseconds.
EXCHANGE_S: Final = 15.0
_MAX_PACKET_BYTES: Final = 65_536
_SECRETIVE: Final = frozenset({ReasonCode.NOT_AUTHORIZED, ReasonCode.BAD_USER_NAME_OR_PASSWORD})


class NotSo(Exception):
    """What should be is not; the message is a sentence for people."""


@dataclass(slots=True, frozen=True)
class Door:
    """Where and how a broker is spoken to. ``tls`` None: in the clear."""

    host: str
    port: int
    tls: ssl.SSLContext | None


# The operator


async def operator_is_ready(http: aiohttp.ClientSession, url: str) -> str:
    """Return what the operator says. Raises NotSo."""
    try:
        async with http.get(f"{url}/readyz") as answer:
            said = (await answer.text()).strip()
            if answer.status != 200:
                raise NotSo(f"the operator is not ready: {said}")
            return said
    except (OSError, aiohttp.ClientError) as error:
        raise NotSo(f"the operator does not answer at {url}: {error or 'no answer'}") from error


# The broker


def is_ready(broker: dict[str, Any]) -> bool:
    """Return whether a broker serves, as it is wanted now. Raises NotSo with its own sentence."""
    status = broker.get("status") or {}
    conditions = {one["type"]: one for one in status.get("conditions") or []}
    ready = conditions.get("Ready")
    name = broker["metadata"]["name"]
    if ready is None:
        raise NotSo(f"MqttBroker {name} has no condition yet: does the operator serve it?")
    if ready.get("observedGeneration", 0) < broker["metadata"].get("generation", 0):
        raise NotSo(f"MqttBroker {name} was changed, and the operator has not said how it is since")
    if ready["status"] != "True":
        raise NotSo(f"MqttBroker {name} is not Ready, {ready['reason']}: {ready['message']}")
    return True


def listener_of(spec: MqttBrokerSpec) -> ListenerSpec | None:
    """Return a listener that a plain MQTT client inside the cluster may use, None without one."""
    for listener in spec.listeners:
        needs_certificate = (
            listener.tls is not None and listener.tls.client_certificates == "required"
        )
        if (
            listener.protocol in {"tcp", "tls", "auto"}
            and listener.proxy_protocol != "required"
            and not needs_certificate
        ):
            return listener
    return None


async def door_of(api: KubeApi, namespace: str, name: str, listener: ListenerSpec) -> Door:
    """Return how to get in. A certificate of the broker's own is checked, others are not: they are
    for names outside the cluster. Raises NotSo, KubeError, KubeUnavailable.
    """
    tls = None
    if listener.tls is not None:
        tls = ssl.create_default_context()
        if listener.tls.self_signed:
            found = await api.read(
                ObjectRef("v1", "ConfigMap", names.authorities_map(name)), namespace
            )
            if found is None:
                raise NotSo(f"ConfigMap {names.authorities_map(name)} is not there")
            tls = ssl.create_default_context(cadata=found["data"]["ca.crt"])
        else:
            tls.check_hostname = False
            tls.verify_mode = ssl.CERT_NONE
    host = f"{names.client_service(name)}.{namespace}.svc"
    return Door(host, listener.exposed_port, tls)


class _Client:
    """As much of an MQTT 5 client as is needed."""

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
            raise NotSo("the broker sends a packet that is too large to be an answer")
        body = await self._reader.readexactly(length)
        return decode_packet(first, body, ProtocolVersion.V5)


@contextlib.asynccontextmanager
async def _connected(door: Door) -> AsyncIterator[_Client]:
    server_name = door.host if door.tls is not None else None
    reader, writer = await asyncio.open_connection(
        door.host, door.port, ssl=door.tls, server_hostname=server_name
    )
    try:
        yield _Client(reader, writer)
    finally:
        writer.close()
        with contextlib.suppress(OSError):
            await writer.wait_closed()


async def exchange(door: Door) -> str:
    """Send a message to ourselves; return what has been seen. Raises NotSo."""
    where = f"{door.host} port {door.port}"
    try:
        async with asyncio.timeout(EXCHANGE_S), _connected(door) as client:
            return await _converse(client)
    except (OSError, EOFError, MqttError) as error:
        raise NotSo(f"{where}: {error or type(error).__name__}") from error


async def _converse(client: _Client) -> str:
    topic = f"tidegate/test/{secrets.token_hex(8)}"
    await client.send(Connect(f"tidegate-test-{secrets.token_hex(4)}", keep_alive=60))
    answer = await client.receive()
    if not isinstance(answer, ConnAck):
        raise NotSo(f"CONNECT is answered with {type(answer).__name__}")
    if answer.reason_code in _SECRETIVE:
        return "it answers, and lets nobody in without a name"
    if answer.reason_code:
        raise NotSo(f"CONNECT is refused: 0x{answer.reason_code:02X}")
    qos = 0 if answer.properties.maximum_qos == 0 else 1
    await client.send(Subscribe(1, [(topic, SubscriptionOptions(qos=qos))]))
    payload = secrets.token_bytes(16)
    await client.send(Publish(topic, payload, qos=qos, packet_id=2 if qos else 0))
    acknowledged: set[type] = set() if qos else {PubAck}
    while True:
        answer = await client.receive()
        match answer:
            case SubAck(reason_codes=[code, *_]) if code >= 0x80:
                return "CONNECT is accepted; its ACL permits no test"
            case PubAck(reason_code=code) if code >= 0x80:
                return "CONNECT is accepted; its ACL permits no test"
            case SubAck() | PubAck():
                acknowledged.add(type(answer))
            case Publish() if answer.payload == payload:
                if answer.qos:
                    await client.send(PubAck(answer.packet_id))
                acknowledged.add(Publish)
            case Disconnect():
                raise NotSo(f"it disconnects: 0x{answer.reason_code:02X}")
        if acknowledged == {SubAck, PubAck, Publish}:
            await client.send(Disconnect())
            return f"a message with QoS {qos} came back"


async def broker_answers(namespace: str, name: str) -> str:
    """Return what has been seen of a broker. Raises NotSo."""
    try:
        async with KubeApi(log_in) as api:
            path = object_path(names.API_VERSION, names.KIND, namespace, name)
            broker = await api.get(path)
            if broker is None:
                raise NotSo(f"there is no MqttBroker {name} in {namespace}")
            is_ready(broker)
            listener = listener_of(parse(name, broker["spec"]))
            if listener is None:
                return "it is Ready; none of its listeners is for clients without more"
            door = await door_of(api, namespace, name, listener)
    except (KubeError, KubeUnavailable) as error:
        raise NotSo(f"the API server: {error}") from error
    except SpecError as error:
        raise NotSo(f"its spec cannot be used: {error}") from error
    return f"listener {listener.name}: {await exchange(door)}"


# The command


def parser() -> argparse.ArgumentParser:
    """Return the parser of the command line."""
    found = argparse.ArgumentParser("tidegate_operator.smoke", description="Check an installation.")
    add = found.add_argument
    add("--operator", required=True, metavar="URL", help="http://HOST:PORT of its pages")
    add("--namespace", default="default", help="of the broker")
    add("--broker", default="", metavar="NAME", help="a broker that should be Ready")
    add("--timeout-s", type=float, default=240.0, help="how long all of it may take")
    return found


async def check(given: argparse.Namespace) -> None:
    """See everything that should be there. Raises NotSo with the last reason why not."""
    until_s = asyncio.get_running_loop().time() + given.timeout_s
    async with aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=5)) as http:
        url = given.operator.rstrip("/")
        await _eventually("operator", until_s, lambda: operator_is_ready(http, url))
    if given.broker:
        await _eventually("broker", until_s, lambda: broker_answers(given.namespace, given.broker))


async def _eventually(what: str, until_s: float, look: Callable[[], Awaitable[str]]) -> None:
    loop = asyncio.get_running_loop()
    while True:
        try:
            print(f"{what}: {await look()}", flush=True)
        except NotSo:
            if loop.time() + PAUSE_S > until_s:
                raise
        else:
            return
        await asyncio.sleep(PAUSE_S)


def main(arguments: list[str]) -> int:
    """Check; return the exit code."""
    os.environ.setdefault("LOGNAME", "tidegate")
    try:
        asyncio.run(check(parser().parse_args(arguments)))
    except NotSo as error:
        print(f"NOT SO: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
