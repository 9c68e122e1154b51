"""The WebSocket handshake and frames, without a socket."""

from __future__ import annotations

import os
import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st
from websockets.frames import Close, Frame, Opcode

from tidegate.edge.transport.websocket import (
    HandshakePolicy,
    HandshakeResult,
    WebSocketFrames,
    answer_handshake,
    binary_frame_header,
    head_size,
)

POLICY = HandshakePolicy(["/mqtt", "/"], [])
LIMIT = 100_000


def request(line: str = "GET /mqtt HTTP/1.1", drop: str = "", extra: tuple[str, ...] = ()) -> bytes:
    headers = {
        "Host": "broker.example",
        "Upgrade": "websocket",
        "Connection": "Upgrade",
        "Sec-WebSocket-Key": "dGhlIHNhbXBsZSBub25jZQ==",
        "Sec-WebSocket-Version": "13",
        "Sec-WebSocket-Protocol": "mqtt",
    }
    headers.pop(drop, None)
    lines = [line, *(f"{name}: {value}" for name, value in headers.items()), *extra]
    return "\r\n".join([*lines, "", ""]).encode()


def offering(*values: str) -> HandshakeResult:
    extra = tuple(f"Sec-WebSocket-Protocol: {value}" for value in values)
    return answer_handshake(request(drop="Sec-WebSocket-Protocol", extra=extra), POLICY)


def test_a_handshake_is_accepted() -> None:
    handshake = answer_handshake(request(), POLICY)
    assert handshake.status == 101
    head = handshake.response.decode()
    assert head.startswith("HTTP/1.1 101 ")
    assert "Sec-WebSocket-Accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo=\r\n" in head
    assert "Sec-WebSocket-Protocol: mqtt\r\n" in head


@pytest.mark.statement("MQTT-6.0.0-4", "MQTT311-6.0.0-4")
@pytest.mark.parametrize(
    ("offer", "chosen"),
    [
        (["mqtt"], "mqtt"),
        (["mqttv3.1"], "mqttv3.1"),
        (["mqttv3.1.1"], "mqttv3.1.1"),
        (["mqttv5"], "mqttv5"),
        (["chat, mqttv3.1, mqtt"], "mqttv3.1"),
        (["chat", "mqtt"], "mqtt"),
    ],
)
def test_the_first_supported_subprotocol_is_echoed_exactly(offer: list[str], chosen: str) -> None:
    handshake = offering(*offer)
    assert handshake.subprotocol == chosen
    assert f"Sec-WebSocket-Protocol: {chosen}\r\n".encode() in handshake.response


def test_a_client_that_offers_no_subprotocol_is_let_in_without_one() -> None:
    handshake = offering()
    assert (handshake.status, handshake.subprotocol) == (101, "")
    assert b"Sec-WebSocket-Protocol" not in handshake.response


def test_only_unsupported_subprotocols_are_refused_with_a_sentence() -> None:
    handshake = offering("chat, amqp")
    assert handshake.status == 400
    assert handshake.response.endswith(
        b"No offered subprotocol is supported. Supported: mqtt, mqttv3.1, mqttv3.1.1, mqttv5.\n"
    )


def test_offers_of_compression_are_ignored() -> None:
    extra = ("Sec-WebSocket-Extensions: permessage-deflate; client_max_window_bits",)
    handshake = answer_handshake(request(extra=extra), POLICY)
    assert handshake.status == 101
    assert b"Extensions" not in handshake.response


@pytest.mark.parametrize(
    ("head", "status", "words"),
    [
        (request("POST /mqtt HTTP/1.1"), 405, "GET request"),
        (request("GET /other HTTP/1.1"), 404, "WebSocket paths: /, /mqtt"),
        (request("GET /mqtt/ HTTP/1.1"), 404, "No MQTT endpoint"),
        (request("GET /mqtt HTTP/1.0"), 400, "proxy_http_version 1.1"),
        (request("GET /mqtt HTTP/2.0"), 400, "not a WebSocket handshake"),
        (request(drop="Upgrade"), 426, "proxy_set_header Upgrade"),
        (request(drop="Connection"), 426, "proxy_set_header Connection"),
        (request(drop="Sec-WebSocket-Version"), 426, "must be 13"),
        (
            request(drop="Sec-WebSocket-Version", extra=("Sec-WebSocket-Version: 8",)),
            426,
            "must be 13",
        ),
        (request(drop="Sec-WebSocket-Key"), 400, "Sec-WebSocket-Key"),
        (
            request(drop="Sec-WebSocket-Key", extra=("Sec-WebSocket-Key: short",)),
            400,
            "Sec-WebSocket-Key",
        ),
        (request(extra=("Content-Length: 5",)), 400, "not a WebSocket handshake"),
        (request(extra=("no colon here",)), 400, "not a WebSocket handshake"),
        (request(extra=("X: " + "y" * 9000,)), 431, "too large"),
        (request("GET /" + "y" * 9000 + " HTTP/1.1"), 431, "too large"),
        (request(extra=("Connection: @",)), 400, "Malformed handshake"),
        (request(extra=("Sec-WebSocket-Protocol: @",)), 400, "Malformed handshake"),
        (b"\x00\x01\r\n\r\n", 400, "not a WebSocket handshake"),
        (b"GET / HTTP/1.1\n\n", 400, "not a WebSocket handshake"),
    ],
)
def test_what_is_refused_gets_one_plain_sentence(head: bytes, status: int, words: str) -> None:
    handshake = answer_handshake(head, POLICY)
    assert handshake.status == status
    top, _, body = handshake.response.decode().partition("\r\n\r\n")
    assert top.startswith(f"HTTP/1.1 {status} ")
    assert "Connection: close" in top
    assert f"Content-Length: {len(body)}" in top
    assert body == handshake.message + "\n"
    assert words in body


def test_a_refusal_names_what_would_be_right() -> None:
    assert b"Allow: GET\r\n" in answer_handshake(request("PUT / HTTP/1.1"), POLICY).response
    response = answer_handshake(request(drop="Sec-WebSocket-Version"), POLICY).response
    assert b"Sec-WebSocket-Version: 13\r\n" in response
    assert b"Upgrade: websocket\r\n" in response


def test_the_query_string_is_no_part_of_the_path() -> None:
    assert answer_handshake(request("GET /mqtt?token=1 HTTP/1.1"), POLICY).status == 101


def test_connection_options_and_upgrades_are_lists_of_tokens_in_any_case() -> None:
    head = request(drop="Connection", extra=("connection: keep-alive, UPGRADE",))
    assert (
        answer_handshake(head.replace(b"Upgrade: websocket", b"upgrade: WebSocket"), POLICY).status
        == 101
    )


@pytest.mark.parametrize(
    ("origin", "status"),
    [
        ("https://app.example.com", 101),
        ("HTTPS://App.Example.com", 101),
        ("https://a.tenant.example.org", 101),
        ("https://example.org", 403),
        ("https://app.example.com.evil.net", 403),
        ("https://evil.net/.example.org", 403),
        ("http://app.example.com", 403),
        ("null", 403),
        (None, 101),
    ],
)
def test_origins(origin: str | None, status: int) -> None:
    policy = HandshakePolicy(["/mqtt"], ["https://app.example.com", "https://*.example.org"])
    extra = () if origin is None else (f"Origin: {origin}",)
    assert answer_handshake(request(extra=extra), policy).status == status


def test_two_origins_are_refused() -> None:
    policy = HandshakePolicy(["/mqtt"], ["https://app.example.com"])
    extra = ("Origin: https://app.example.com", "Origin: https://evil.net")
    assert answer_handshake(request(extra=extra), policy).status == 400


def test_every_origin_may_come_if_none_or_a_star_is_configured() -> None:
    for allowed in ([], ["*"]):
        policy = HandshakePolicy(["/mqtt"], allowed)
        assert answer_handshake(request(extra=("Origin: https://x.net",)), policy).status == 101


def test_every_address_that_proxies_have_seen_is_taken() -> None:
    extra = ("X-Forwarded-For: 1.1.1.1", "X-Forwarded-For: 2.2.2.2")
    handshake = answer_handshake(request(extra=extra), POLICY)
    assert handshake.forwarded_for == ("1.1.1.1", "2.2.2.2")


def test_the_end_of_a_request_head_is_found() -> None:
    head = request()
    assert head_size(head + b"\x82\x80") == len(head)
    assert head_size(head[:-1]) == 0
    assert head_size(b"GET / HTTP/1.1\n\nx") == 16


# Frames.


def frame(opcode: int, payload: bytes, *, fin: bool = True, mask: bool = True) -> bytes:
    return Frame(Opcode(opcode), payload, fin).serialize(mask=mask)


def receive(*chunks: bytes, limit: int = LIMIT) -> tuple[WebSocketFrames, bytes]:
    frames = WebSocketFrames(limit)
    for chunk in chunks:
        frames.receive(chunk)
    return frames, b"".join(frames.received or ())


def close_frame(code: int) -> bytes:
    return frame(8, Close(code, "").serialize())


def sent_close_code(frames: WebSocketFrames) -> int:
    sent = b"".join(frames.outgoing or ())
    assert sent[0] == 0x88
    return int(struct.unpack("!H", sent[2:4])[0])


@pytest.mark.parametrize("size", [0, 1, 125, 126, 65_535, 65_536, 70_000])
def test_frames_of_every_length_form(size: int) -> None:
    payload = os.urandom(size)
    _, stream = receive(frame(2, payload))
    assert stream == payload
    assert binary_frame_header(size) + payload == frame(2, payload, mask=False)


@pytest.mark.statement("MQTT-6.0.0-2", "MQTT311-6.0.0-2")
@given(
    st.lists(st.tuples(st.binary(max_size=300), st.booleans(), st.booleans()), max_size=8),
    st.data(),
)
def test_where_frames_begin_and_end_means_nothing(
    parts: list[tuple[bytes, bool, bool]], data: st.DataObject
) -> None:
    wire = b""
    is_first = True
    for payload, is_last, has_ping in parts:
        wire += frame(2 if is_first else 0, payload, fin=is_last)
        wire += frame(9, b"between") if has_ping else b""
        is_first = is_last
    frames = WebSocketFrames(LIMIT)
    position = 0
    while position < len(wire):
        size = data.draw(st.integers(1, len(wire) - position))
        frames.receive(wire[position : position + size])
        position += size
    assert b"".join(frames.received or ()) == b"".join(payload for payload, _, _ in parts)
    assert not frames.is_closed
    pongs = sum(has_ping for _, _, has_ping in parts)
    assert b"".join(frames.outgoing or ()) == frame(10, b"between", mask=False) * pongs


def test_one_byte_at_a_time() -> None:
    wire = frame(2, b"a" * 200) + frame(9, b"x") + frame(2, b"b")
    frames, stream = receive(*(bytes([byte]) for byte in wire))
    assert stream == b"a" * 200 + b"b"
    assert frames.outgoing == [frame(10, b"x", mask=False)]


def test_pongs_are_taken_silently() -> None:
    frames, stream = receive(frame(10, b"") + frame(10, b"late") + frame(2, b"x"))
    assert (stream, frames.outgoing, frames.is_closed) == (b"x", None, False)


@pytest.mark.statement("MQTT-6.0.0-1", "MQTT311-6.0.0-1")
@pytest.mark.parametrize(
    "wire", [frame(1, b"text"), frame(1, b"text", fin=False), frame(1, b"x" * 50_000)[:4]]
)
def test_a_text_frame_ends_the_connection_with_1003(wire: bytes) -> None:
    frames, stream = receive(frame(2, b"before") + wire)
    assert stream == b"before"
    assert frames.is_closed
    assert frames.has_failed
    assert sent_close_code(frames) == 1003


def test_a_frame_over_the_limit_ends_the_connection_before_it_is_read() -> None:
    frames, _ = receive(frame(2, bytes(1001))[:4], limit=1000)
    assert frames.is_closed
    assert sent_close_code(frames) == 1009


def test_a_frame_at_the_limit_is_taken() -> None:
    frames, stream = receive(frame(2, bytes(1000)), limit=1000)
    assert not frames.is_closed
    assert len(stream) == 1000


@pytest.mark.parametrize(
    "wire",
    [
        pytest.param(frame(2, b"x", mask=False), id="unmasked"),
        pytest.param(b"\xc2\x80\x00\x00\x00\x00", id="reserved bit"),
        pytest.param(b"\x83\x80\x00\x00\x00\x00", id="reserved opcode"),
        pytest.param(frame(0, b"x"), id="continuation of nothing"),
        pytest.param(frame(2, b"x", fin=False) + frame(2, b"y"), id="message in a message"),
        pytest.param(b"\x09\x80\x00\x00\x00\x00", id="fragmented ping"),
        pytest.param(b"\x89\xfe\x00\x7e\x00\x00\x00\x00" + bytes(126), id="long ping"),
        pytest.param(b"\x8a\xfe\x00\x7e\x00\x00\x00\x00" + bytes(126), id="long pong"),
        pytest.param(frame(8, b"x"), id="close with half a code"),
        pytest.param(frame(8, b"\x03\xed"), id="close with a code that may not be sent"),
    ],
)
def test_broken_rules_end_the_connection_with_1002(wire: bytes) -> None:
    frames, _ = receive(frame(2, b"fine") + wire + frame(2, b"ignored"))
    assert frames.is_closed
    assert frames.has_failed
    assert sent_close_code(frames) == 1002
    assert b"".join(frames.received or ()).startswith(b"fine")
    assert b"ignored" not in b"".join(frames.received or ())


def test_the_peers_close_is_answered_with_its_own_code() -> None:
    frames, stream = receive(frame(2, b"last") + close_frame(1001) + frame(2, b"after"))
    assert stream == b"last"
    assert frames.is_closed
    assert not frames.has_failed
    assert frames.close_code == 1001
    assert sent_close_code(frames) == 1001


def test_a_peer_may_close_in_the_middle_of_a_message() -> None:
    frames, stream = receive(frame(2, b"begun", fin=False) + close_frame(1000))
    assert stream == b"begun"
    assert not frames.has_failed
    assert sent_close_code(frames) == 1000


def test_our_close_is_over_when_the_peer_has_answered() -> None:
    frames = WebSocketFrames(LIMIT)
    frames.close(1001)
    assert sent_close_code(frames) == 1001
    assert frames.is_closing
    frames.receive(frame(2, b"crossed on the way"))
    assert not frames.is_closed
    frames.close(1000)
    frames.receive(close_frame(1001))
    assert frames.is_closed
    assert not frames.has_failed
    assert b"".join(frames.outgoing or ()).count(b"\x88") == 1


def test_a_rule_broken_while_closing_ends_it_at_once() -> None:
    frames = WebSocketFrames(LIMIT)
    frames.close(1000)
    frames.receive(frame(1, b"text"))
    assert frames.is_closed


@given(st.binary(max_size=400), st.binary(max_size=400))
def test_any_bytes_give_a_stream_or_a_close(first: bytes, second: bytes) -> None:
    frames, _ = receive(first, second, limit=200)
    assert frames.is_closed == (frames.close_code != 0)


@given(st.binary(max_size=400))
def test_any_request_is_answered(head: bytes) -> None:
    assert answer_handshake(head + b"\r\n\r\n", POLICY).status >= 101
