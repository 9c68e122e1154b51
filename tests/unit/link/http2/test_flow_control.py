"""Windows of streams and connections, and sizes of frames, in both directions."""

from __future__ import annotations

import asyncio

import pytest
from h2.errors import ErrorCodes
from h2.settings import SettingCodes

from support.http2_peer import (
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
from tidegate.link.frame_stream import StreamFailed
from tidegate.link.http2 import frames
from tidegate.link.http2.connection import CONNECTION_WINDOW_BYTES, FRAME_BYTES, WINDOW_BYTES
from tidegate.link.http2.stream import Stream

# Flow control of what is sent


def _payload_of(peer: Peer) -> bytes:
    return b"".join(one.payload for one in peer.frames() if one.kind == frames.DATA)


async def _writing(payload: bytes) -> tuple[Peer, asyncio.Task[None]]:
    """Return a peer to whom a large message is being sent, and the task that sends it."""
    peer = Peer.of_client()
    stream = call_of(peer)
    task = asyncio.create_task(stream.write(Bytes(payload)))
    await turns()
    return peer, task


async def test_no_more_is_sent_than_stream_and_connection_have_room_for() -> None:
    payload = bytes(range(256)) * 800
    peer, task = await _writing(payload)
    got = _payload_of(peer)
    assert len(got) == frames.INITIAL_WINDOW_BYTES
    peer.send(frames.window_update(0, 100_000))
    await turns()
    assert _payload_of(peer) == b""
    peer.send(frames.window_update(1, 3))
    await turns()
    got += _payload_of(peer)
    assert len(got) == frames.INITIAL_WINDOW_BYTES + 3
    peer.send(frames.window_update(1, 1_000_000))
    await turns()
    got += _payload_of(peer)
    assert len(got) == frames.INITIAL_WINDOW_BYTES + 100_000
    peer.send(frames.window_update(0, 1_000_000))
    await task
    assert got + _payload_of(peer) == message(payload)


async def test_a_window_that_shrinks_under_way_is_made_up_for_first() -> None:
    payload = b"x" * 100_000
    peer, task = await _writing(payload)
    peer.send(frames.window_update(0, 1_000_000))
    got = _payload_of(peer)
    peer.set(SettingCodes.INITIAL_WINDOW_SIZE, 1000)  # 64,535 less than was sent already
    peer.send(frames.window_update(1, 64_535))
    await turns()
    assert _payload_of(peer) == b""
    peer.send(frames.window_update(1, 10))
    await turns()
    got += (more := _payload_of(peer))
    assert len(more) == 10
    peer.set(SettingCodes.INITIAL_WINDOW_SIZE, 1_000_000)
    await task
    assert got + _payload_of(peer) == message(payload)


async def test_frames_are_as_long_as_the_peer_accepts() -> None:
    peer = Peer.of_client()
    stream = call_of(peer)
    for most in (16_384, 40_000):
        peer.set(SettingCodes.MAX_FRAME_SIZE, most)
        peer.frames()
        await stream.write(Bytes(b"x" * 20_000))
        sizes = [len(one.payload) for one in peer.frames() if one.kind == frames.DATA]
        assert sum(sizes) == 20_005
        assert max(sizes) == min(most, 20_005)


async def test_a_writer_waits_for_the_socket() -> None:
    peer = Peer.of_client()
    stream = call_of(peer)
    peer.connection.pause_writing()
    task = asyncio.create_task(stream.write(Bytes(b"x")))
    await turns()
    assert not task.done()
    peer.connection.resume_writing()
    await task
    assert _payload_of(peer) == message(b"x")


async def test_a_writer_that_waits_hears_of_the_end() -> None:
    peer, task = await _writing(b"x" * 100_000)
    peer.lose()
    with pytest.raises(StreamFailed):
        await task


@pytest.mark.parametrize(
    ("update", "code"),
    [
        (frames.window_update(0, 0), ErrorCodes.PROTOCOL_ERROR),
        (frames.window_update(1, 0), ErrorCodes.PROTOCOL_ERROR),
        (frames.window_update(7, 1), ErrorCodes.PROTOCOL_ERROR),
        (frames.window_update(0, frames.MAX_WINDOW_BYTES), ErrorCodes.FLOW_CONTROL_ERROR),
        (frames.window_update(1, frames.MAX_WINDOW_BYTES), ErrorCodes.FLOW_CONTROL_ERROR),
        (frames.frame(frames.WINDOW_UPDATE, 0, 0, b"\0\0"), ErrorCodes.FRAME_SIZE_ERROR),
        (frames.frame(frames.GOAWAY, 0, 0, b"\0\0"), ErrorCodes.FRAME_SIZE_ERROR),
    ],
)
async def test_windows_that_cannot_be_close_the_connection(update: bytes, code: ErrorCodes) -> None:
    calls = Calls()
    peer = await called(calls)
    peer.send(update)
    assert code_of_goaway(peer) is code
    await turns()
    assert len(calls.ended) == 1


# Flow control of what arrives


async def test_the_peer_is_given_more_as_messages_are_taken() -> None:
    calls = Calls()
    peer = await called(calls)
    part = message(b"x" * (FRAME_BYTES - 5))
    for _ in range(40):
        peer.send(data(part))
    more = {0: 0, 1: 0}
    for one in peer.frames():
        assert one.kind == frames.WINDOW_UPDATE
        more[one.stream] += frames.read_window_update(one.payload)
    arrived = 40 * FRAME_BYTES
    assert arrived - WINDOW_BYTES // 2 <= more[1] <= arrived
    assert arrived - CONNECTION_WINDOW_BYTES // 2 <= more[0] <= arrived


async def test_the_peer_is_given_no_more_while_nothing_is_read() -> None:
    calls = Calls()
    go = asyncio.Event()

    async def play(stream: Stream[bytes, Bytes]) -> None:
        await go.wait()
        await calls.collect(stream)

    calls.play = play
    peer = await called(calls)
    part = message(b"x" * (FRAME_BYTES - 5))
    for _ in range(WINDOW_BYTES // FRAME_BYTES):
        peer.send(data(part))
    assert not peer.frames()
    go.set()
    await turns()
    (more,) = peer.frames()
    assert (more.stream, frames.read_window_update(more.payload)) == (1, WINDOW_BYTES)
    assert len(calls.got) == WINDOW_BYTES // FRAME_BYTES


async def test_a_peer_that_sends_more_than_its_window_is_closed() -> None:
    calls = Calls()
    go = asyncio.Event()

    async def play(_stream: Stream[bytes, Bytes]) -> None:
        await go.wait()

    calls.play = play
    peer = await called(calls)
    part = message(b"x" * (FRAME_BYTES - 5))
    for _ in range(WINDOW_BYTES // FRAME_BYTES):
        peer.send(data(part))
    assert not peer.wire.is_closed
    peer.send(data(b"x"))
    assert code_of_goaway(peer) is ErrorCodes.FLOW_CONTROL_ERROR


@pytest.mark.parametrize("kind", [frames.DATA, frames.HEADERS, frames.SETTINGS, 200])
async def test_frames_that_are_too_long_are_not_waited_for(kind: int) -> None:
    peer = await called(Calls())
    too_long = FRAME_BYTES + 1
    peer.send(frames.HEADER.pack(too_long >> 16, too_long & 0xFFFF, kind, 0, 1))
    assert code_of_goaway(peer) is ErrorCodes.FRAME_SIZE_ERROR
