"""The project's WebSocket stack with an echo in place of MQTT, for other people's test suites.

It differs from production in one hook: `EchoFrames` takes text too, puts messages together and
sends each back as what it was. Sockets, handshake, framing and closing are the listeners' own. Run
alone (`python -m support.ws_echo_server`), it prints its address.
"""

from __future__ import annotations

import asyncio
import codecs

import uvloop
from websockets.frames import Frame, Opcode

from support.recording_handler import Handlers
from tidegate.edge.transport.listeners import Listeners
from tidegate.edge.transport.websocket import WebSocketFrames
from tidegate.runtime.config.model import ListenerConfig, ListenerProtocol

#: Autobahn's largest message is 16 MiB.
MAX_MESSAGE_BYTES = 32 * 1024 * 1024
_INVALID_DATA = 1007


class EchoFrames(WebSocketFrames):
    """Frames that answer every message with itself."""

    __slots__ = ("_decoder", "_message")

    accepts_text = True

    def __init__(self, max_frame_bytes: int) -> None:
        super().__init__(max_frame_bytes)
        self._message: list[bytes] = []
        #: Checks the text of the message under way; None while it is binary.
        self._decoder: codecs.IncrementalDecoder | None = None

    def receive(self, data: bytes) -> None:
        super().receive(data)
        # What is still here came whole, past the library.
        self._echo_binary()

    def _receive_frame(self, frame: Frame) -> None:
        if frame.opcode not in (Opcode.TEXT, Opcode.BINARY, Opcode.CONT):
            super()._receive_frame(frame)
            return
        # Earlier messages of the same chunk go first.
        self._echo_binary()
        library = self._open_library()
        if frame.opcode is Opcode.TEXT:
            self._decoder = codecs.getincrementaldecoder("utf-8")()
        data = bytes(frame.data)
        if self._decoder is not None:
            try:
                self._decoder.decode(data, frame.fin)
            except UnicodeDecodeError:
                self.fail(_INVALID_DATA, "invalid UTF-8")
                return
        self._message.append(data)
        if not frame.fin:
            return
        message = b"".join(self._message)
        self._message.clear()
        if not self.is_closing:
            (library.send_binary if self._decoder is None else library.send_text)(message)
        self._decoder = None
        self._collect(library)

    def _echo_binary(self) -> None:
        is_ours = self._library is None
        received, self.received = self.received, None
        for payload in received or ():
            library = self._open_library()
            if not self.is_closing:
                library.send_binary(payload)
            self._collect(library)
        if is_ours and not self.is_closing:
            self.drop_library()


async def start_echo_server() -> tuple[Listeners, str]:
    """Start it on a free port of the loopback; returns it with its ws:// URL."""
    listeners = Listeners(
        [ListenerConfig(name="echo", protocol=ListenerProtocol.WS, port=0, websocket_ping_s=0)],
        lambda _config: Handlers(echo=False),
        max_packet_size_bytes=MAX_MESSAGE_BYTES,
        frames_class=EchoFrames,
    )
    await listeners.start()
    return listeners, f"ws://{listeners.addresses['echo'][0]}/"


async def main() -> None:
    """Run until interrupted."""
    _, url = await start_echo_server()
    print(url, flush=True)
    await asyncio.Event().wait()


if __name__ == "__main__":
    uvloop.run(main())
