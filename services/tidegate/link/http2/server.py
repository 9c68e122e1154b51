"""The listener of a router: accepts connections, and has each call served by its method.

Owns the sockets, the connections and the tasks of calls. Called by ``transport``. Connections leave
the reserve of descriptors free, for the store and the admin server: where there are no more, the
oldest one that has not begun HTTP/2 makes room for the next.
"""

from __future__ import annotations

import asyncio
import logging
import socket
from collections import OrderedDict
from collections.abc import Coroutine
from functools import partial
from typing import Any, Final

from h2.errors import ErrorCodes
from h2.events import Event, RequestReceived

from tidegate.link.frame_stream import LinkAddressError, StreamFailed
from tidegate.link.http2.connection import CLOSE_S, Connection
from tidegate.link.http2.listening_sockets import close_sockets, open_sockets
from tidegate.link.http2.method import Method
from tidegate.link.http2.status import CallRefused, Status, trailers
from tidegate.link.http2.stream import Stream
from tidegate.link.http2.tls import ServerTls
from tidegate.runtime.config.model import LinkTlsConfig
from tidegate.runtime.process.descriptors import DescriptorBudget
from tidegate.runtime.telemetry.counters import Counters

log = logging.getLogger(__name__)

#: Connections and handshakes at the same time; more are closed at once.
MAX_CONNECTIONS: Final = 4096
#: For TLS, and again for the first bytes of HTTP/2.
HANDSHAKE_S: Final = 10.0
#: A connection from which nothing has arrived for this time gets a PING, and is closed when
#: nothing arrives for as long again.
KEEP_ALIVE_S: Final = 20.0
#: Pause after the system has refused to accept a connection.
ACCEPT_PAUSE_S: Final = 0.5
#: Closed connections are logged once in so many seconds.
LOG_S: Final = 10.0

_HEADERS: Final = [(b":status", b"200"), (b"content-type", b"application/grpc")]


class ServerConnection(Connection):
    """A connection that was accepted."""

    def __init__(self, loop: asyncio.AbstractEventLoop, listener: Listener) -> None:
        super().__init__(loop, is_client=False)
        self._listener = listener
        self._pinged = False
        self._alive: asyncio.TimerHandle | None = None
        #: Done when the socket is closed.
        self.lost: asyncio.Future[None] = loop.create_future()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """See Connection."""
        super().connection_made(transport)
        self._alive = self.loop.call_later(HANDSHAKE_S, self._look_for_life)
        self._listener.connections.add(self)
        self._listener.beginning[self] = None

    def connection_lost(self, error: Exception | None) -> None:
        """See Connection."""
        super().connection_lost(error)
        if self._alive is not None:
            self._alive.cancel()
        self._listener.connections.discard(self)
        self._listener.beginning.pop(self, None)
        if not self.lost.done():
            self.lost.set_result(None)

    def _look_for_life(self) -> None:
        if self.is_closed:
            return
        if not self.has_settings or (self._pinged and not self.heard):
            self.abort("nothing has arrived for too long")
            return
        self._pinged = not self.heard
        if self._pinged:
            self.ping()
        self.heard = False
        self._alive = self.loop.call_later(KEEP_ALIVE_S, self._look_for_life)

    def on_headers(self, event: Event) -> None:
        """See Connection: begin the call of a request."""
        if not isinstance(event, RequestReceived):
            return
        number = event.stream_id or 0
        headers = dict(event.headers)
        if headers.get(b":method") != b"POST":
            self._refuse(number, [(b":status", b"405")])
        elif not headers.get(b"content-type", b"").startswith(b"application/grpc"):
            self._refuse(number, [(b":status", b"415")])
        else:
            method = self._listener.methods.get(headers[b":path"])
            if method is None:
                end = trailers(Status.UNIMPLEMENTED, "no such method")
                self._refuse(number, [*_HEADERS, *end])
            else:
                self._begin(number, method, has_ended=event.stream_ended is not None)

    def _refuse(self, number: int, headers: list[tuple[bytes, bytes]]) -> None:
        self.send_headers(number, headers, ends=True)
        self.reset(number, ErrorCodes.NO_ERROR)

    def _begin(self, number: int, method: Method, *, has_ended: bool) -> None:
        stream: Stream[Any, Any] = Stream(self, number, method.parse, method.limit_bytes)
        stream.peer_ended = has_ended
        self.begin(stream)
        self.send_headers(number, _HEADERS)
        task = self._listener.spawn(self._serve(stream, method))
        stream.on_failed = task.cancel

    async def _serve(self, stream: Stream[Any, Any], method: Method) -> None:
        status, text = Status.OK, ""
        try:
            await method.serve(stream)
        except CallRefused as error:
            status, text = error.status, str(error)
        except StreamFailed as error:
            status, text = Status.UNKNOWN, str(error)
        except Exception:  # of one call
            log.exception("call of the link failed")
            status, text = Status.UNKNOWN, "internal error"
        if stream.number in self.streams:
            self.forget(stream)
            self.send_headers(stream.number, trailers(status, text), ends=True)
            if not stream.peer_ended:
                self.reset(stream.number, ErrorCodes.NO_ERROR)


class Listener:
    """See the module's docstring."""

    def __init__(
        self,
        methods: dict[str, Method],
        counters: Counters,
        descriptors: DescriptorBudget | None = None,
    ) -> None:
        """``methods`` by path."""
        self.methods = {path.encode(): method for path, method in methods.items()}
        self.connections: set[ServerConnection] = set()
        #: Those that may not have begun HTTP/2 yet; the oldest first.
        self.beginning: dict[ServerConnection, None] = {}
        self._tasks: set[asyncio.Task[None]] = set()
        #: Accepted, and not a connection yet; the oldest first.
        self._handshakes: OrderedDict[socket.socket, asyncio.Task[None]] = OrderedDict()
        self._descriptors = descriptors or DescriptorBudget()
        self._counters = counters
        #: When it was last logged that connections were closed for others, or at once.
        self._logged_s = float("-inf")
        self._sockets: list[socket.socket] = []
        self._tls: ServerTls | None = None

    def spawn(self, work: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
        """Run work until it ends or the listener does."""
        task = asyncio.get_running_loop().create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return task

    async def start(self, address: str, tls: LinkTlsConfig) -> str:
        """Listen at ADDRESS:PORT or unix:PATH; return that, with the port that the system chose.

        Raises OSError when the address cannot be bound or a certificate cannot be read.
        """
        if tls.ca is not None:
            self._tls = ServerTls(tls)
        try:
            self._sockets, address = open_sockets(address)
        except OSError as error:
            raise LinkAddressError(f"cannot listen at {address}: {error}") from error
        for listening in self._sockets:
            self._accept_from(listening)
        return address

    def _accept_from(self, listening: socket.socket) -> None:
        # No task: cancelled between two steps it would leave what it has accepted open.
        if listening in self._sockets:
            asyncio.get_running_loop().add_reader(listening, self._accept, listening)

    def _accept(self, listening: socket.socket) -> None:
        try:
            accepted, _ = listening.accept()
        except (BlockingIOError, InterruptedError):
            return  # it has gone again
        except OSError as error:
            log.warning("link connection not accepted", extra={"reason": str(error)})
            loop = asyncio.get_running_loop()
            loop.remove_reader(listening)
            loop.call_later(ACCEPT_PAUSE_S, self._accept_from, listening)
            return
        if not self._has_room() and not self._close_oldest():
            accepted.close()
            return
        accepted.setblocking(False)
        task = self._handshakes[accepted] = self.spawn(self._shake_hands(accepted))
        task.add_done_callback(partial(self._shaken, accepted))

    def _shaken(self, accepted: socket.socket, task: asyncio.Task[None]) -> None:
        self._handshakes.pop(accepted, None)
        if task.cancelled():
            accepted.close()  # also where the task had not begun

    def _has_room(self) -> bool:
        """Whether one more connection, which has its descriptor already, may stay."""
        count = len(self.connections) + len(self._handshakes) + 1
        return count <= min(MAX_CONNECTIONS, self._descriptors.room(count))

    def _close_oldest(self) -> bool:
        """Close one that has not begun HTTP/2; False if there is none."""
        counters = self._counters
        counters.link_connections_closed += 1
        now_s = asyncio.get_running_loop().time()
        if now_s >= self._logged_s + LOG_S:
            log.warning(
                "too many link connections, closing those that have not begun",
                extra={
                    "closed": counters.link_connections_closed,
                    "open_files_limit": self._descriptors.limit,
                },
            )
            self._logged_s = now_s
        # Without TLS it takes no time to become a connection.
        if self._handshakes and self._tls is not None:
            self._handshakes.popitem(last=False)[1].cancel()
            return True
        for connection in list(self.beginning):
            if connection.has_settings:
                del self.beginning[connection]
            elif not connection.is_closed:
                connection.abort("another connection needs its place")
                return True
        return False

    async def _shake_hands(self, accepted: socket.socket) -> None:
        loop = asyncio.get_running_loop()
        options: dict[str, Any] = {}
        if self._tls is not None:
            options = {
                "ssl": self._tls.context(),
                "ssl_handshake_timeout": HANDSHAKE_S,
                "ssl_shutdown_timeout": CLOSE_S,
            }
        try:
            if accepted.family != socket.AF_UNIX:
                accepted.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            await loop.connect_accepted_socket(
                lambda: ServerConnection(loop, self), accepted, **options
            )
        except OSError as error:
            accepted.close()
            log.debug("link connection not accepted", extra={"reason": str(error)})

    async def stop(self) -> None:
        """Close every connection, and stop listening."""
        listening, self._sockets = self._sockets, []
        for one in listening:
            asyncio.get_running_loop().remove_reader(one)
        lost = [connection.lost for connection in self.connections]
        for connection in list(self.connections):
            connection.close(ErrorCodes.NO_ERROR, "router stops")
        await self.stop_calls()
        close_sockets(listening)
        if lost:
            await asyncio.wait(lost, timeout=2 * CLOSE_S)

    async def stop_calls(self) -> None:
        """End the tasks: nothing is accepted or served any more."""
        tasks = list(self._tasks)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
