"""Any chunking of a client's bytes gives the same packets and the same fault, and never raises."""

from __future__ import annotations

from typing import Final

from hypothesis import given, settings
from hypothesis import strategies as st

from support.packet_strategies import chunked, conversations, mutated, publishes
from tidegate.mqtt.connection import ConnectionSettings, ServerConnection
from tidegate.mqtt.decode import decode_packet
from tidegate.mqtt.encode import encode
from tidegate.mqtt.enums import ProtocolVersion, ReasonCode
from tidegate.mqtt.errors import MqttError
from tidegate.mqtt.packets import Connect, Packet, Publish

versions: Final = st.sampled_from(list(ProtocolVersion))
Outcome = tuple[list[Packet], tuple[str, int, str] | None]


def connection() -> ServerConnection:
    """Return a connection with every limit low enough to be met."""
    return ServerConnection(ConnectionSettings(600, 3, 4))


def play(chunks: list[bytes]) -> Outcome:
    """Feed chunks to a new connection."""
    machine = connection()
    packets: list[Packet] = []
    for chunk in chunks:
        packets += machine.receive(chunk)
    error = machine.error
    if error is None:
        return packets, None
    return packets, (type(error).__name__, error.reason_code, error.statement)


@given(conversations())
@settings(max_examples=200)
def test_a_conversation_comes_out_as_it_went_in(
    case: tuple[ProtocolVersion, list[Packet], bytes],
) -> None:
    _, packets, stream = case
    machine = ServerConnection()
    assert machine.receive(stream) == packets
    assert machine.error is None


@given(st.data())
@settings(max_examples=250)
def test_any_chunking_gives_the_same(data: st.DataObject) -> None:
    _, _, stream = data.draw(conversations())
    whole = play([stream])
    assert play(data.draw(chunked(stream))) == whole
    assert play([bytes((value,)) for value in stream]) == whole


@given(st.data())
@settings(max_examples=400)
def test_any_chunking_of_wrong_bytes_gives_the_same_packets_and_the_same_fault(
    data: st.DataObject,
) -> None:
    stream = data.draw(mutated(conversations().map(lambda case: case[2])) | st.binary(max_size=40))
    whole = play([stream])
    assert play(data.draw(chunked(stream))) == whole
    assert play([bytes((value,)) for value in stream]) == whole


@given(versions.flatmap(lambda version: st.tuples(st.just(version), publishes(version))), st.data())
@settings(max_examples=400)
def test_the_fast_path_agrees_with_the_decoder(
    case: tuple[ProtocolVersion, Publish], data: st.DataObject
) -> None:
    version, message = case
    wire = bytearray(encode(message, version))
    at = 2 if wire[1] < 0x80 else 3
    # One byte of the body or the flags is changed, or none.
    where = data.draw(st.sampled_from([None, 0, *range(at, len(wire))]))
    if where == 0:
        wire[0] ^= data.draw(st.integers(0, 15))
    elif where is not None:
        wire[where] = data.draw(st.integers(0, 255))
    try:
        wanted = decode_packet(wire[0], bytes(wire[at:]), version)
    except MqttError as error:
        fault: ReasonCode | None = error.reason_code
    else:
        fault = None
        assert isinstance(wanted, Publish)
        if wanted.subscription_identifiers or wanted.topic_alias:
            return
    machine = ServerConnection()
    machine.receive(encode(Connect("c", protocol_version=version), version))
    received = machine.receive(bytes(wire))
    if fault is None:
        assert machine.error is None
        assert received == [wanted]
    else:
        assert machine.error is not None
        assert received == []
