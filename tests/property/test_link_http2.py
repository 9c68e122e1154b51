"""Any division of a call's bytes gives the same messages, and no bytes raise, at either end."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st

from support.http2_peer import RESPONSE, Peer, message
from tidegate.link.http2 import frames
from tidegate.link.http2.method import Method
from tidegate.link.http2.server import Listener
from tidegate.link.http2.stream import Stream
from tidegate.runtime.telemetry.counters import Counters

_payloads = st.lists(st.binary(max_size=300), max_size=12)
_cuts = st.lists(st.integers(1, 400), min_size=1, max_size=8)


def _divide(data: bytes, sizes: list[int]) -> list[bytes]:
    """Return the data in parts of these sizes, over and over."""
    parts = []
    while data:
        for size in sizes:
            parts.append(data[:size])
            data = data[size:]
    return parts


def _data(part: bytes, padding: int) -> bytes:
    if not padding:
        return frames.frame(frames.DATA, 0, 1, part)
    padded = bytes([padding]) + part + bytes(padding)
    return frames.frame(frames.DATA, frames.PADDED, 1, padded)


async def _play(received: bytes, piece: int) -> list[bytes]:
    """Have a server receive bytes within a call; return the messages."""
    got: list[bytes] = []

    async def collect(stream: Stream[Any, Any]) -> None:
        await stream.receive(got.append)

    listener = Listener({"/test/Echo": Method(bytes, collect, 1 << 20)}, Counters())
    peer = Peer.of_server(listener)
    peer.request()
    await asyncio.sleep(0)
    peer.send(received, piece)
    await listener.stop_calls()
    return got


@given(_payloads, _cuts, st.lists(st.integers(0, 20), min_size=1, max_size=5), st.integers(1, 700))
@settings(max_examples=150)
def test_messages_do_not_depend_on_frames_padding_or_reads(
    payloads: list[bytes], cuts: list[int], paddings: list[int], piece: int
) -> None:
    parts = _divide(b"".join(map(message, payloads)), cuts)
    received = b"".join(
        _data(part, paddings[number % len(paddings)]) for number, part in enumerate(parts)
    )
    assert asyncio.run(_play(received, piece)) == payloads


_kinds = st.one_of(st.integers(0, 9), st.integers(0, 255))
_numbers = st.one_of(st.integers(0, 7), st.integers(0, (1 << 32) - 1))
_contents = st.one_of(
    st.binary(max_size=40),
    st.binary(max_size=60).map(message),
    st.integers(0, (1 << 32) - 1).map(lambda number: number.to_bytes(4, "big")),
    st.just(b"\x00" * 8),
    st.just(b"\x00\x04\x00\x00\x00\x00"),
)
_frames = st.builds(frames.frame, _kinds, st.integers(0, 255), _numbers, _contents)
_noise = st.lists(st.one_of(_frames, _frames, st.binary(max_size=30)), max_size=12).map(b"".join)


class _Errors(logging.Handler):
    def __init__(self) -> None:
        super().__init__(logging.ERROR)
        self.found: list[logging.LogRecord] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.found.append(record)


def _without_errors(play: Callable[[], Any]) -> None:
    """Run a coroutine function; nothing may be logged as a fault of ours."""
    logger, errors = logging.getLogger("tidegate.link"), _Errors()
    logger.addHandler(errors)
    try:
        asyncio.run(play())
    finally:
        logger.removeHandler(errors)
    assert not errors.found, errors.found[0].exc_info


def _ends_or_answers(peer: Peer) -> None:
    """A connection is closed, or goes on as if nothing had happened."""
    if not peer.wire.is_closed:
        assert not peer.connection.is_closed
    else:
        assert not peer.connection.streams


@given(_noise, st.integers(1, 200))
@settings(max_examples=300)
def test_no_bytes_of_an_edge_are_a_fault_of_the_router(noise: bytes, piece: int) -> None:
    async def play() -> None:
        async def collect(stream: Stream[Any, Any]) -> None:
            await stream.receive(lambda _: None)

        listener = Listener({"/test/Echo": Method(bytes, collect, 1000)}, Counters())
        peer = Peer.of_server(listener)
        peer.request()
        await asyncio.sleep(0)
        peer.send(noise, piece)
        await asyncio.sleep(0)
        _ends_or_answers(peer)
        await listener.stop_calls()

    _without_errors(play)


@given(_noise, st.integers(1, 200), st.booleans())
@settings(max_examples=300)
def test_no_bytes_of_a_router_are_a_fault_of_the_edge(
    noise: bytes, piece: int, responds: bool
) -> None:
    async def play() -> None:
        peer = Peer.of_client()
        peer.connection.request("/test/Echo", "http", "test", bytes)  # type: ignore[attr-defined]
        peer.h2.receive_data(b"".join(frames.frame(*one) for one in peer.frames()))
        if responds:
            peer.h2.send_headers(1, RESPONSE)
            peer.flush()
        peer.send(noise, piece)
        _ends_or_answers(peer)
        peer.lose()

    _without_errors(play)
