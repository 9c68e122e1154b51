"""Hypothesis strategies for MQTT packets as a sender may write them."""

from __future__ import annotations

import itertools
from dataclasses import fields
from typing import Any, Final

from hypothesis import strategies as st

from tidegate.mqtt import decode
from tidegate.mqtt.encode import encode
from tidegate.mqtt.enums import PacketType, ProtocolVersion
from tidegate.mqtt.packets import (
    Auth,
    ConnAck,
    Connect,
    Disconnect,
    Packet,
    PingReq,
    PingResp,
    Properties,
    PubAck,
    PubComp,
    Publish,
    PubRec,
    PubRel,
    SubAck,
    Subscribe,
    SubscriptionOptions,
    UnsubAck,
    Unsubscribe,
    Will,
)
from tidegate.mqtt.properties import TABLE, WILL, WireType, forwarded_properties

V31, V311, V5 = ProtocolVersion

texts: Final = st.text(
    st.characters(exclude_categories=["Cs"], exclude_characters="\0"), max_size=12
)
payloads: Final = st.binary(max_size=40) | st.binary(min_size=110, max_size=140)
packet_ids: Final = st.integers(1, 65_535)
intervals: Final = st.integers(0, 0xFFFFFFFF)
levels: Final = st.text("ab$é \ufeff", max_size=3)
topics: Final = st.lists(levels, min_size=1, max_size=4).map("/".join).filter(bool)
_plain_filters: Final = st.tuples(
    st.lists(levels | st.just("+"), min_size=1, max_size=3).map("/".join),
    st.sampled_from(["", "/#"]),
).map("".join)
topic_filters: Final = (
    (_plain_filters | st.just("#")).filter(bool).filter(lambda text: text[:1] != "$")
)
shared_filters: Final = topic_filters.map("$share/group/{}".format)

_VALUES: Final[dict[WireType, st.SearchStrategy[Any]]] = {
    WireType.U16: st.integers(0, 65_535),
    WireType.U32: intervals,
    WireType.VARIABLE: st.integers(1, 268_435_455),
    WireType.BINARY: st.binary(max_size=8),
    WireType.STRING: texts,
    WireType.STRING_PAIR: st.tuples(texts, texts),
}


def properties(packet: int) -> st.SearchStrategy[Properties]:
    """Properties that may stand in a packet of that type (or WILL), each there or not."""
    chosen: dict[str, st.SearchStrategy[Any]] = {}
    for row in TABLE:
        if packet not in row.packets:
            continue
        if row.wire_type is WireType.BYTE:
            value: st.SearchStrategy[Any] = st.integers(0, 1)
        else:
            value = _VALUES[row.wire_type]
        if row.non_zero:
            value = value.filter(bool)
        if row.name == "response_topic":
            value = topics
        if row.repeatable:
            most = 1 if (row.identifier, packet) == (0x0B, PacketType.SUBSCRIBE) else 3
            chosen[row.name] = st.lists(value, max_size=most).map(tuple)
        else:
            chosen[row.name] = st.none() | value
    return st.builds(Properties, **chosen).map(_with_method)


def _with_method(found: Properties) -> Properties:
    if found.authentication_method is None:
        found.authentication_data = None
    return found


def _is_empty(found: Properties | None) -> bool:
    return found is None or all(
        getattr(found, field.name) in (None, ()) for field in fields(Properties)
    )


def _optional(packet: int) -> st.SearchStrategy[Properties | None]:
    """Properties of a packet that leaves the field out when it has none."""
    return properties(packet).map(lambda found: None if _is_empty(found) else found)


@st.composite
def publishes(draw: st.DrawFn, version: ProtocolVersion, *, from_client: bool = False) -> Publish:
    """A PUBLISH; with ``from_client`` without what only a server or an alias' owner sends."""
    qos = draw(st.integers(0, 2))
    message = Publish(
        draw(topics),
        draw(payloads),
        qos,
        draw(st.booleans()),
        draw(st.booleans()) if qos else False,
        draw(packet_ids) if qos else 0,
    )
    if version == V5:
        found = draw(properties(PacketType.PUBLISH))
        message.properties = forwarded_properties(found)
        message.message_expiry_interval = found.message_expiry_interval
        if not from_client:
            message.subscription_identifiers = found.subscription_identifiers
            message.topic_alias = found.topic_alias or 0
            if message.topic_alias and draw(st.booleans()):
                message.topic = ""
    return message


@st.composite
def wills(draw: st.DrawFn, version: ProtocolVersion) -> Will:
    """The will of a CONNECT."""
    will = Will(draw(topics), draw(payloads), draw(st.integers(0, 2)), draw(st.booleans()))
    if version == V5:
        found = draw(properties(WILL))
        will.properties = forwarded_properties(found)
        will.message_expiry_interval = found.message_expiry_interval
        will.will_delay_interval = found.will_delay_interval or 0
    return will


@st.composite
def connects(draw: st.DrawFn, version: ProtocolVersion) -> Connect:
    """A CONNECT of one version."""
    username = draw(st.none() | texts)
    password = draw(st.none() | st.binary(max_size=8))
    return Connect(
        draw(texts),
        version,
        draw(st.booleans()),
        draw(st.integers(0, 65_535)),
        username,
        password if username is not None or version == V5 else None,
        draw(st.none() | wills(version)),
        draw(properties(PacketType.CONNECT)) if version == V5 else Properties(),
        draw(st.booleans()) if version < V5 else False,
    )


@st.composite
def subscribes(draw: st.DrawFn, version: ProtocolVersion) -> Subscribe:
    """A SUBSCRIBE of one version."""
    found = draw(properties(PacketType.SUBSCRIBE)) if version == V5 else Properties()
    identifier = (found.subscription_identifiers or (0,))[0]
    qos = st.integers(0, 2)
    if version < V5:
        options = st.builds(SubscriptionOptions, qos)
        subscription = st.tuples(topic_filters | shared_filters, options)
    else:
        handling, identifiers = st.integers(0, 2), st.just(identifier)
        flag, off = st.booleans(), st.just(False)
        subscription = st.tuples(
            topic_filters,
            st.builds(SubscriptionOptions, qos, flag, flag, handling, identifiers),
        ) | st.tuples(
            shared_filters,
            st.builds(SubscriptionOptions, qos, off, flag, handling, identifiers),
        )
    return Subscribe(draw(packet_ids), draw(st.lists(subscription, min_size=1, max_size=4)), found)


def _codes(codes: frozenset[int]) -> st.SearchStrategy[int]:
    return st.sampled_from(sorted(codes))


def _acknowledgements(
    version: ProtocolVersion,
) -> st.SearchStrategy[PubAck | PubRec | PubRel | PubComp]:
    if version < V5:
        return st.one_of(
            *(st.builds(make, packet_ids) for make in (PubAck, PubRec, PubRel, PubComp))
        )
    of = _optional(PacketType.PUBACK)
    return st.one_of(
        st.builds(PubAck, packet_ids, _codes(decode.PUBACK_CODES), of),
        st.builds(PubRec, packet_ids, _codes(decode.PUBACK_CODES), of),
        st.builds(PubRel, packet_ids, _codes(decode.PUBREL_CODES), of),
        st.builds(PubComp, packet_ids, _codes(decode.PUBREL_CODES), of),
    )


def _unsubscribes(version: ProtocolVersion) -> st.SearchStrategy[Unsubscribe]:
    filters = st.lists(topic_filters | shared_filters, min_size=1, max_size=4)
    if version < V5:
        return st.builds(Unsubscribe, packet_ids, filters)
    return st.builds(Unsubscribe, packet_ids, filters, properties(PacketType.UNSUBSCRIBE))


def client_packets(version: ProtocolVersion) -> st.SearchStrategy[Packet]:
    """What a client may send after CONNECT, without aliases and AUTH's rules."""
    kinds: list[st.SearchStrategy[Any]] = [
        publishes(version, from_client=True),
        _acknowledgements(version),
        subscribes(version),
        _unsubscribes(version),
        st.builds(PingReq),
    ]
    if version == V5:
        kinds += [
            st.builds(
                Disconnect, _codes(decode.DISCONNECT_CODES), _optional(PacketType.DISCONNECT)
            ),
            st.builds(Auth, _codes(decode.AUTH_CODES), properties(PacketType.AUTH)),
        ]
    else:
        kinds.append(st.builds(Disconnect))
    return st.one_of(*kinds)


def server_packets(version: ProtocolVersion) -> st.SearchStrategy[Packet]:
    """What only a server sends."""
    kinds: list[st.SearchStrategy[Any]] = [publishes(version), st.builds(PingResp)]
    if version == V5:
        kinds += [
            st.builds(
                ConnAck,
                st.booleans(),
                _codes(decode.CONNACK_CODES),
                properties(PacketType.CONNACK),
            ),
            st.builds(
                SubAck,
                packet_ids,
                st.lists(_codes(decode.SUBACK_CODES), max_size=5),
                properties(PacketType.SUBACK),
            ),
            st.builds(
                UnsubAck,
                packet_ids,
                st.lists(_codes(decode.UNSUBACK_CODES), max_size=5),
                properties(PacketType.UNSUBACK),
            ),
        ]
        return st.one_of(*kinds)
    present = st.booleans() if version == V311 else st.just(False)
    granted = [0, 1, 2, 0x80] if version == V311 else [0, 1, 2]
    kinds += [
        st.builds(ConnAck, present, st.sampled_from([0, 0x84, 0x85, 0x88, 0x86, 0x87])),
        st.builds(SubAck, packet_ids, st.lists(st.sampled_from(granted), max_size=5)),
        st.builds(UnsubAck, packet_ids, st.just([])),
    ]
    return st.one_of(*kinds)


def any_packet(version: ProtocolVersion) -> st.SearchStrategy[Packet]:
    """Every packet of a version, both directions."""
    return connects(version) | client_packets(version) | server_packets(version)


@st.composite
def conversations(draw: st.DrawFn) -> tuple[ProtocolVersion, list[Packet], bytes]:
    """A client's stream from CONNECT on: version, packets, bytes."""
    version = draw(st.sampled_from(list(ProtocolVersion)))
    packets: list[Packet] = [draw(connects(version))]
    packets += draw(st.lists(client_packets(version), max_size=8))
    return version, packets, b"".join(encode(packet, version) for packet in packets)


@st.composite
def mutated(draw: st.DrawFn, streams: st.SearchStrategy[bytes]) -> bytes:
    """A stream with a few bytes changed, cut out or put in."""
    raw = bytearray(draw(streams))
    for _ in range(draw(st.integers(1, 4))):
        at = draw(st.integers(0, max(0, len(raw) - 1)))
        match draw(st.integers(0, 3)):
            case 0 if raw:
                raw[at] = draw(st.integers(0, 255))
            case 1 if raw:
                raw[at] ^= 1 << draw(st.integers(0, 7))
            case 2:
                del raw[at : at + draw(st.integers(1, 4))]
            case _:
                raw[at:at] = draw(st.binary(min_size=1, max_size=4))
    return bytes(raw)


@st.composite
def chunked(draw: st.DrawFn, stream: bytes) -> list[bytes]:
    """The stream, cut anywhere."""
    if not stream:
        return []
    cuts = draw(st.lists(st.integers(0, len(stream)), max_size=8).map(sorted))
    edges = [0, *cuts, len(stream)]
    return [stream[start:end] for start, end in itertools.pairwise(edges)]
