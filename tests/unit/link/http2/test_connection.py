"""Frames become messages of calls, and messages frames; who breaks the rules is closed."""

from __future__ import annotations

import asyncio

import pytest
from h2.errors import ErrorCodes
from h2.events import ResponseReceived, TrailersReceived
from h2.settings import SettingCodes

from support.http2_peer import (
    REQUEST,
    RESPONSE,
    Bytes,
    Calls,
    Peer,
    call_of,
    called,
    code_of_goaway,
    data,
    message,
    turns,
)
from support.virtual_time import in_virtual_time
from tidegate.link.frame_stream import StreamFailed
from tidegate.link.http2 import frames
from tidegate.link.http2.connection import (
    MAX_STREAMS,
    MAX_UNSENT_BYTES,
)
from tidegate.link.http2.server import HANDSHAKE_S, KEEP_ALIVE_S
from tidegate.link.http2.stream import Stream


def trailers_of(peer: Peer) -> dict[str, str]:
    """Return the headers that have ended the call."""
    events = peer.h2.receive_data(bytes(peer.wire.sent))
    (ended,) = [
        one
        for one in events
        if isinstance(one, ResponseReceived | TrailersReceived) and one.stream_ended
    ]
    return {_text(name): _text(value) for name, value in ended.headers}


def _text(value: str | bytes) -> str:
    return value if isinstance(value, str) else value.decode()


# Messages that arrive


@pytest.mark.parametrize("piece", [1, 3, 7, 65_536])
async def test_messages_arrive_however_frames_and_reads_divide_them(piece: int) -> None:
    calls = Calls()
    peer = await called(calls)
    sent = [b"", b"one", b"x" * 300, b"y" * 40]
    stream = b"".join(map(message, sent))
    parts = [stream[:2], stream[2:6], b"", stream[6:200], stream[200:]]
    peer.send(b"".join(map(data, parts)), piece)
    assert calls.got == sent


async def test_a_large_message_in_many_frames_is_one_message() -> None:
    calls = Calls()
    peer = await called(calls)
    large = bytes(range(256)) * 12_000
    whole = message(large) + message(b"next")
    for begin in range(0, len(whole), 16_384):
        peer.send(data(whole[begin : begin + 16_384]))
    assert calls.got == [large, b"next"]


async def test_messages_wait_until_they_are_read() -> None:
    calls = Calls()
    read: list[bytes | None] = []

    async def play(stream: Stream[bytes, Bytes]) -> None:
        while (one := await stream.read()) is not None:
            read.append(one)

    calls.play = play
    peer = await called(calls)
    peer.send(data(message(b"1") + message(b"2")))
    await turns()
    peer.send(data(message(b"3"), frames.END_STREAM))
    await turns()
    assert read == [b"1", b"2", b"3"]
    assert calls.ended == [None]


async def test_padding_is_left_out() -> None:
    calls = Calls()
    peer = await called(calls)
    peer.send(data(b"\x03" + message(b"x") + b"\0\0\0", frames.PADDED))
    assert calls.got == [b"x"]
    peer.send(data(b"\x05\0\0", frames.PADDED))
    assert code_of_goaway(peer) is ErrorCodes.PROTOCOL_ERROR


async def test_what_a_sink_raises_ends_receiving() -> None:
    calls = Calls()

    def sink(one: bytes) -> None:
        calls.got.append(one)
        raise ZeroDivisionError

    calls.play = lambda stream: stream.receive(sink)
    peer = await called(calls)
    peer.send(data(message(b"1") + message(b"2")))
    peer.send(data(message(b"3")))
    await turns()
    assert calls.got == [b"1"]
    assert isinstance(calls.ended[0], ZeroDivisionError)
    assert trailers_of(peer)["grpc-status"] == "2"


# Messages that are refused


@pytest.mark.parametrize(
    ("sent", "status"),
    [
        (message(b"x", compressed=1), "12"),
        (message(b"x" * 101), "8"),
        (message(b"x" * 101)[:5], "8"),
    ],
)
async def test_a_message_that_is_not_accepted_ends_its_call_alone(sent: bytes, status: str) -> None:
    calls = Calls(limit_bytes=100)
    peer = await called(calls)
    peer.request(stream=3)
    await turns()
    peer.send(data(sent[:3]) + data(sent[3:]))
    peer.send(data(message(b"other"), stream=3))
    await turns()
    assert trailers_of(peer)["grpc-status"] == status
    assert calls.got == [b"other"]
    assert not peer.wire.is_closed


@pytest.mark.parametrize(
    ("changed", "answer"),
    [
        ((b":path", b"/test/Other"), {":status": "200", "grpc-status": "12"}),
        ((b":method", b"GET"), {":status": "405"}),
        ((b"content-type", b"text/html"), {":status": "415"}),
    ],
)
async def test_requests_that_are_no_call_are_refused(
    changed: tuple[bytes, bytes], answer: dict[str, str]
) -> None:
    peer = Peer.of_server(Calls().listener)
    peer.request([changed if name == changed[0] else (name, value) for name, value in REQUEST])
    found = trailers_of(peer)
    assert {name: found.get(name) for name in answer} == answer


# Headers


async def test_headers_may_be_continued_but_not_interrupted() -> None:
    calls = Calls()
    peer = Peer.of_server(calls.listener)
    peer.h2.send_headers(1, [*REQUEST, (b"x-long", b"v" * 200)])
    whole = peer.h2.data_to_send()
    block = whole[frames.HEADER_BYTES :]
    begin = frames.frame(frames.HEADERS, 0, 1, block[:20])
    middle = frames.frame(frames.CONTINUATION, 0, 1, block[20:100])
    end = frames.frame(frames.CONTINUATION, frames.END_HEADERS, 1, block[100:])
    peer.send(begin + middle + end + data(message(b"x")), 5)
    await turns()
    assert len(calls.streams) == 1
    interrupted = Peer.of_server(calls.listener)
    interrupted.send(begin + frames.window_update(0, 1) + end)
    assert code_of_goaway(interrupted) is ErrorCodes.PROTOCOL_ERROR


async def test_settings_come_first() -> None:
    peer = Peer.silent(Calls().listener)
    peer.send(frames.PREFACE + frames.window_update(0, 1))
    assert code_of_goaway(peer) is ErrorCodes.PROTOCOL_ERROR


async def test_what_is_not_http2_is_closed() -> None:
    peer = Peer.silent(Calls().listener)
    peer.send(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n")
    assert peer.wire.is_closed


async def test_more_streams_than_agreed_upon_are_not_served() -> None:
    calls = Calls()
    peer = Peer.of_server(calls.listener)
    peer.h2.remote_settings[SettingCodes.MAX_CONCURRENT_STREAMS] = 1000
    peer.h2.remote_settings.acknowledge()
    for number in range(MAX_STREAMS + 1):
        peer.request(stream=2 * number + 1)
    await turns()
    assert peer.wire.is_closed


# The end of calls and of connections


async def test_a_peer_that_has_ended_its_half_still_gets_answers() -> None:
    calls = Calls()

    async def play(stream: Stream[bytes, Bytes]) -> None:
        await calls.collect(stream)
        await stream.write(Bytes(b"late"))

    calls.play = play
    peer = await called(calls)
    peer.send(data(message(b"x"), frames.END_STREAM))
    await turns()
    assert calls.got == [b"x"]
    sent = peer.frames()
    assert sent[0] == (frames.DATA, 0, 1, message(b"late"))
    assert [one.kind for one in sent] == [frames.DATA, frames.HEADERS]
    assert trailers_of(peer)["grpc-status"] == "0"


async def test_a_reset_ends_one_call_and_not_the_other() -> None:
    calls = Calls()
    peer = await called(calls)
    peer.request(stream=3)
    await turns()
    peer.h2.reset_stream(1, ErrorCodes.CANCEL)
    peer.flush()
    peer.send(data(message(b"x"), stream=3))
    await turns()
    assert len(calls.ended) == 1
    assert isinstance(calls.ended[0], asyncio.CancelledError)
    assert calls.got == [b"x"]
    with pytest.raises(StreamFailed, match="reset: CANCEL"):
        await calls.streams[0].write(Bytes(b"x"))


async def test_a_lost_connection_ends_its_calls() -> None:
    calls = Calls()
    peer = await called(calls)
    peer.lose()
    await turns()
    assert len(calls.ended) == 1
    assert not calls.listener.connections


async def test_a_stream_that_ends_within_a_message_has_failed() -> None:
    calls = Calls()
    peer = await called(calls)
    peer.send(data(message(b"whole") + message(b"in part")[:6], frames.END_STREAM))
    await turns()
    assert calls.got == [b"whole"]
    assert len(calls.ended) == 1
    assert calls.ended[0] is not None


async def test_what_arrives_for_a_call_that_has_ended_is_ignored() -> None:
    calls = Calls()

    async def play(_stream: Stream[bytes, Bytes]) -> None:
        return

    calls.play = play
    peer = await called(calls)
    for _ in range(3):
        peer.send(data(message(b"x")))
    assert not peer.wire.is_closed
    peer.request(stream=3)
    await turns()
    assert len(calls.streams) == 2


async def test_goaway_lets_a_call_go_on_that_the_router_has_begun() -> None:
    peer = Peer.of_client()
    stream = call_of(peer)
    peer.send(frames.goaway(1, ErrorCodes.NO_ERROR))
    peer.h2.send_headers(1, RESPONSE)
    peer.flush()
    peer.send(data(message(b"x")))
    assert await stream.read() == b"x"
    peer.h2.send_headers(1, [(b"grpc-status", b"0")], end_stream=True)
    peer.flush()
    assert await stream.read() is None
    with pytest.raises(StreamFailed):
        await stream.write(Bytes(b"x"))


async def test_goaway_ends_a_call_that_the_router_has_not_begun() -> None:
    peer = Peer.of_client()
    stream = call_of(peer)
    peer.send(frames.goaway(0, ErrorCodes.NO_ERROR))
    with pytest.raises(StreamFailed, match="no more streams"):
        await stream.read()


@pytest.mark.parametrize(
    ("headers", "reason"),
    [
        ([*RESPONSE, (b"grpc-status", b"14"), (b"grpc-message", b"not%20now")], "not now"),
        ([*RESPONSE, (b"grpc-status", b"7")], "status 7"),
        (RESPONSE, "without a status"),
        ([(b":status", b"503")], "HTTP status 503"),
    ],
)
async def test_a_client_says_how_its_call_has_failed(
    headers: list[tuple[bytes, bytes]], reason: str
) -> None:
    peer = Peer.of_client()
    stream = call_of(peer)
    peer.h2.send_headers(1, headers, end_stream=True)
    peer.flush()
    with pytest.raises(StreamFailed, match=reason):
        await stream.read()


# Keeping alive


async def test_pings_are_answered() -> None:
    peer = await called(Calls())
    peer.h2.ping(b"12345678")
    peer.flush()
    (answer,) = peer.frames()
    assert (answer.kind, answer.flags, answer.payload) == (6, 1, b"12345678")


async def test_a_peer_that_asks_and_does_not_read_is_closed() -> None:
    peer = await called(Calls())
    peer.connection.pause_writing()
    peer.wire.unsent_bytes = MAX_UNSENT_BYTES
    peer.h2.ping(b"12345678")
    peer.flush()
    assert not peer.wire.is_closed
    peer.wire.unsent_bytes += 1
    peer.h2.ping(b"12345678")
    peer.flush()
    assert peer.wire.is_aborted


@in_virtual_time
async def test_a_connection_on_which_nothing_arrives_is_closed() -> None:
    calls = Calls()
    peer = await called(calls)
    await asyncio.sleep(HANDSHAKE_S + KEEP_ALIVE_S + 1)
    assert [one.kind for one in peer.frames()] == [6]
    peer.send(frames.frame(6, 1, 0, b"tidegate"))
    await asyncio.sleep(2 * KEEP_ALIVE_S)
    assert [one.kind for one in peer.frames()] == [6]
    assert not peer.wire.is_closed
    await asyncio.sleep(KEEP_ALIVE_S)
    assert peer.wire.is_aborted
    await turns()
    assert len(calls.ended) == 1


@in_virtual_time
async def test_a_connection_that_never_begins_is_closed() -> None:
    peer = Peer.silent(Calls().listener)
    peer.send(frames.PREFACE[:10])
    await asyncio.sleep(HANDSHAKE_S + 1)
    assert peer.wire.is_aborted
