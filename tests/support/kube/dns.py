"""The name service of a cluster under test: Services, and the pods behind headless ones.

``answer`` is pure: a query in, a reply out; ``Records`` says what is there. Written for the node's
tests: addresses (A) and places (SRV), nothing else; there is no world outside.
"""

from __future__ import annotations

import asyncio
import contextlib
import ipaddress
import struct
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Final

ZONE: Final = ".svc.cluster.local"
_A: Final = 1
_SRV: Final = 33
_TTL_S: Final = 2
_NO_SUCH_NAME: Final = 3
_HEADER: Final = struct.Struct("!HHHHHH")
#: A name that is the one of the question: it stands right behind the header.
_THE_QUESTION: Final = b"\xc0\x0c"

Manifest = dict[str, Any]
#: Address of the API server's objects: namespace and name.
Name = tuple[str, str]


@dataclass(slots=True)
class Records:
    """What is known: Services by name, and the slices of their endpoints."""

    services: dict[Name, Manifest] = field(default_factory=dict)
    slices: dict[Name, Manifest] = field(default_factory=dict)

    def addresses(self, name: str) -> list[str] | None:
        """Return the addresses of a name; None: there is no such name."""
        found = self._service(name)
        if found is None:
            return None
        (namespace, service_name), host = found
        service = self.services[namespace, service_name]["spec"]
        if service.get("clusterIP") not in {None, "", "None"}:
            return None if host else [service["clusterIP"]]
        hosts = self._hosts((namespace, service_name), service)
        if not host:
            return sorted(hosts.values())
        return [hosts[host]] if host in hosts else None

    def places(self, name: str) -> list[tuple[int, str]] | None:
        """Return the ports and hosts of _PORT._PROTOCOL.SERVICE; None: there is no such name."""
        port_name, _, rest = name.partition(".")
        protocol, _, service = rest.partition(".")
        found = self._service(service)
        if found is None or found[1] or port_name[:1] != "_" or protocol[:1] != "_":
            return None
        key = found[0]
        spec = self.services[key]["spec"]
        for port in spec.get("ports", []):
            if port.get("name", "") == port_name[1:]:
                hosts = self._hosts(key, spec)
                return [(port["port"], f"{host}.{service}") for host in sorted(hosts)]
        return None

    def _service(self, name: str) -> tuple[Name, str] | None:
        """Split a name into a Service that is there and the host before it."""
        if not name.endswith(ZONE):
            return None
        parts = name.removesuffix(ZONE).split(".")
        if not 2 <= len(parts) <= 3 or (parts[-1], parts[-2]) not in self.services:
            return None
        return (parts[-1], parts[-2]), parts[0] if len(parts) == 3 else ""

    def _hosts(self, key: Name, service: Manifest) -> dict[str, str]:
        namespace, name = key
        everybody = service.get("publishNotReadyAddresses", False)
        hosts: dict[str, str] = {}
        for (place, _), one in self.slices.items():
            labels = one["metadata"].get("labels") or {}
            if place != namespace or labels.get("kubernetes.io/service-name") != name:
                continue
            for endpoint in one.get("endpoints") or ():
                ready = (endpoint.get("conditions") or {}).get("ready", True)
                for address in endpoint["addresses"] if ready or everybody else ():
                    hosts[endpoint.get("hostname") or address.replace(".", "-")] = address
        return hosts


def answer(query: bytes, records: Records) -> bytes:
    """Return the reply to a query. Raises struct.error, IndexError: it is none."""
    identifier, flags, *_ = _HEADER.unpack_from(query)
    labels = []
    at = _HEADER.size
    while length := query[at]:
        labels.append(query[at + 1 : at + 1 + length].decode("ascii", "replace"))
        at += 1 + length
    (kind,) = struct.unpack_from("!H", query, at + 1)
    question = query[_HEADER.size : at + 5]
    name = ".".join(labels).lower()
    found: list[bytes] | None
    if kind == _SRV:
        places = records.places(name)
        found = None if places is None else [_srv(port, host) for port, host in places]
    else:
        addresses = records.addresses(name)
        found = None if addresses is None else []
        if addresses and kind == _A:
            found = [_record(_A, ipaddress.ip_address(one).packed) for one in addresses]
    # An authoritative answer; whoever asks may want recursion, and gets none.
    reply_flags = 0x8480 | (flags & 0x0100) | (_NO_SUCH_NAME if found is None else 0)
    header = _HEADER.pack(identifier, reply_flags, 1, len(found or ()), 0, 0)
    return header + question + b"".join(found or ())


def _record(kind: int, content: bytes) -> bytes:
    return _THE_QUESTION + struct.pack("!HHIH", kind, 1, _TTL_S, len(content)) + content


def _srv(port: int, host: str) -> bytes:
    name = b"".join(bytes([len(one)]) + one.encode() for one in host.split(".")) + b"\0"
    return _record(_SRV, struct.pack("!HHH", 0, 100, port) + name)


class _Datagrams(asyncio.DatagramProtocol):
    def __init__(self, reply: Callable[[bytes], bytes]) -> None:
        self._reply = reply
        self._transport: asyncio.DatagramTransport | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = transport  # type: ignore[assignment]  # of datagrams

    def datagram_received(self, data: bytes, addr: tuple[str, int]) -> None:
        assert self._transport is not None
        with contextlib.suppress(struct.error, IndexError):
            self._transport.sendto(self._reply(data), addr)


async def serve(address: str, records: Records) -> None:
    """Answer queries on port 53, for ever."""

    def reply(query: bytes) -> bytes:
        return answer(query, records)

    async def over_tcp(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(OSError, asyncio.IncompleteReadError, struct.error, IndexError):
            while True:
                (length,) = struct.unpack("!H", await reader.readexactly(2))
                said = reply(await reader.readexactly(length))
                writer.write(struct.pack("!H", len(said)) + said)
        writer.close()

    loop = asyncio.get_running_loop()
    await loop.create_datagram_endpoint(lambda: _Datagrams(reply), local_addr=(address, 53))
    server = await asyncio.start_server(over_tcp, address, 53)
    await server.serve_forever()
