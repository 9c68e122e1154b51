"""Listening sockets: binding, accepting, and pausing while the accept rate is exceeded.

Owns the sockets of one listener; called by `Listeners`, and ``bind`` by the supervisor. Without an
accept rate the event loop's own server accepts, which is the cheapest way on uvloop. With one, an
`Acceptor` accepts connections itself, one token each; out of tokens it stops polling the listening
socket, and the rest waits in the kernel's queue instead of being refused.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import logging
import os
import socket
import stat
from collections.abc import Callable, Sequence
from pathlib import Path

from tidegate.core.rate import TokenBucket
from tidegate.edge.transport.accepted_connection import Refusal
from tidegate.edge.transport.handshake import ConnectionHandshake
from tidegate.edge.transport.listener import Listener
from tidegate.edge.transport.stream_channel import StreamChannel
from tidegate.runtime.config.addresses import ANY, LOCALHOST
from tidegate.runtime.config.model import ListenerConfig, ListenerProtocol

log = logging.getLogger(__name__)

#: Connections accepted per wake-up, so that a storm does not starve connected clients.
ACCEPTS_PER_WAKE = 64
#: The same where the event loop accepts. (uvloop accepts one; asyncio takes the backlog for it.)
ACCEPTS_PER_TURN = 16
#: Pause after an accept that failed for want of descriptors or memory.
ERROR_PAUSE_S = 1.0
#: Attempts to get the same free port for both families.
PORT_ATTEMPTS = 16
_KEEPALIVE_PROBES = 4


class Acceptor:
    """The listening sockets of one listener."""

    __slots__ = ("_bucket", "_file", "_listener", "_servers", "_sockets", "_tasks", "_timer")

    def __init__(self, listener: Listener, sockets: Sequence[socket.socket] | None = None) -> None:
        """Bind and listen, or use ``sockets``. Raises OSError with the listener's name.

        Connections that come before ``start`` wait in the kernel's queue.
        """
        config = listener.config
        self._listener = listener
        self._sockets = bind(config) if sockets is None else list(sockets)
        #: Device and inode of a Unix socket: another file may replace it at its path.
        self._file = _socket_file(self._sockets)
        try:
            for sock in self._sockets:
                sock.listen(config.backlog)
        except OSError as exc:
            self._close_sockets()
            raise OSError(
                exc.errno, f"listener {config.label}: cannot listen: {exc.strerror or exc}"
            ) from exc
        self._servers: list[asyncio.Server] = []
        self._tasks: set[asyncio.Task[object]] = set()
        self._timer: asyncio.TimerHandle | None = None
        self._bucket: TokenBucket | None = None

    @property
    def addresses(self) -> list[str]:
        """``host:port``, ``[host]:port`` or a path, as bound."""
        return [bound_address(sock) for sock in self._sockets]

    @property
    def port(self) -> int:
        """The port that is bound; 0 for a Unix socket, and when there is no socket."""
        if not self._sockets or self._sockets[0].family == socket.AF_UNIX:
            return 0
        port: int = self._sockets[0].getsockname()[1]
        return port

    @property
    def is_open(self) -> bool:
        """Whether it has listening sockets."""
        return bool(self._sockets)

    @property
    def is_file_missing(self) -> bool:
        """Whether a Unix socket's file is gone or replaced, so that no client can connect."""
        return self._file != _socket_file(self._sockets)

    async def start(self) -> None:
        """Accept connections from now on. Raises OSError; then none is accepted."""
        await self._accept_as(self._listener.config)

    async def reconfigure(self, config: ListenerConfig) -> None:
        """Accept as ``config`` says, before the listener takes it, on the sockets that are open.

        Raises OSError; then it accepts as before.
        """
        try:
            self._set_socket_options(config)
            await self._accept_as(config)
        except BaseException:
            with contextlib.suppress(OSError):
                self._set_socket_options(self._listener.config)
            raise

    def _set_socket_options(self, config: ListenerConfig) -> None:
        for sock in self._sockets:
            sock.listen(config.backlog)
            if sock.family == socket.AF_UNIX:
                _set_mode(sock, config.unix_mode)
            else:
                _set_keepalive(sock, config.tcp_keepalive_s)

    async def _accept_as(self, config: ListenerConfig) -> None:
        """Start the new way of accepting before the one in use is stopped."""
        servers: list[asyncio.Server] = []
        if config.accept_rate:
            self._bucket = TokenBucket(
                config.accept_rate, config.accept_burst, self._listener.loop.time()
            )
            self._cancel_timer()
            try:
                self._watch()
            except OSError:
                self._stop_watching()
                raise
        else:
            servers = await self._serve()
            for sock in self._sockets:
                sock.listen(config.backlog)
            self._stop_watching()
        before, self._servers = self._servers, servers
        for server in before:
            server.close()

    async def _serve(self) -> list[asyncio.Server]:
        """Let the event loop accept; it sets another backlog."""
        loop, factory = self._listener.loop, protocol_factory(self._listener)
        backlog = ACCEPTS_PER_TURN
        servers: list[asyncio.Server] = []
        # The server closes the socket it is given; the original stays to name the address.
        copies = self.duplicate_sockets()
        try:
            for copy in copies:
                if copy.family == socket.AF_UNIX:
                    server = await loop.create_unix_server(factory, sock=copy, backlog=backlog)
                else:
                    server = await loop.create_server(factory, sock=copy, backlog=backlog)
                servers.append(server)
        except BaseException:
            for server in servers:
                server.close()
            for copy in copies[len(servers) :]:
                copy.close()
            raise
        if not self.is_open:  # stopped meanwhile
            for server in servers:
                server.close()
            servers.clear()
        return servers

    def pause(self) -> None:
        """Accept nothing until ``resume``: connections wait in the kernel's queue."""
        self._cancel_timer()
        if self._bucket is not None:
            self._unwatch()
        for server in self._servers:
            server.close()
        self._servers.clear()

    async def resume(self) -> None:
        """Accept again (idempotent). Raises OSError; then it is still paused."""
        if self.is_open and not self._servers:
            await self._accept_as(self._listener.config)

    def duplicate_sockets(self) -> list[socket.socket]:
        """Return duplicates of the listening sockets, which stay open after ``stop``.

        Raises OSError.
        """
        copies: list[socket.socket] = []
        try:
            for sock in self._sockets:
                copies.append(sock.dup())  # noqa: PERF401 - those before a failure are closed
        except OSError:
            for copy in copies:
                copy.close()
            raise
        return copies

    def stop(self, *, keeps_path: bool = False) -> None:
        """Close the listening sockets; the kernel resets what waits in its queue.

        ``keeps_path``: duplicates of them are in use, so a Unix socket's file stays.
        """
        self._stop_watching()
        for server in self._servers:
            server.close()
        self._servers.clear()
        self._close_sockets(keeps_path=keeps_path)

    def _stop_watching(self) -> None:
        self._cancel_timer()
        if self._bucket is not None:
            self._unwatch()
            self._bucket = None

    def _cancel_timer(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _close_sockets(self, *, keeps_path: bool = False) -> None:
        for sock in self._sockets:
            if sock.family == socket.AF_UNIX and not keeps_path and not self.is_file_missing:
                _remove_own_socket(sock)
            sock.close()
        self._sockets.clear()

    def _watch(self) -> None:
        self._timer = None
        for sock in self._sockets:
            self._listener.loop.add_reader(sock.fileno(), self._accept, sock)

    def _unwatch(self) -> None:
        for sock in self._sockets:
            self._listener.loop.remove_reader(sock.fileno())

    def _pause(self, seconds: float) -> None:
        self._unwatch()
        if self._timer is None:
            self._timer = self._listener.loop.call_later(seconds, self._watch)

    def _accept(self, sock: socket.socket) -> None:
        bucket = self._bucket
        assert bucket is not None
        listener = self._listener
        for _ in range(ACCEPTS_PER_WAKE):
            if not bucket.take(listener.loop.time()):
                listener.counters.accept_pauses += 1
                self._pause(bucket.wait_s())
                return
            try:
                connection, _address = sock.accept()
            except (BlockingIOError, InterruptedError, ConnectionAbortedError):
                return
            except OSError as exc:
                listener.refuse(Refusal.ACCEPT_ERROR, os.strerror(exc.errno or 0))
                self._pause(ERROR_PAUSE_S)
                return
            connection.setblocking(False)
            self._create_transport(connection)

    def _create_transport(self, connection: socket.socket) -> None:
        listener = self._listener
        task: asyncio.Task[object] = listener.loop.create_task(
            listener.loop.connect_accepted_socket(protocol_factory(listener), connection)
        )
        self._tasks.add(task)
        task.add_done_callback(self._transport_created)

    def _transport_created(self, task: asyncio.Task[object]) -> None:
        self._tasks.discard(task)
        if not task.cancelled() and task.exception() is not None:
            self._listener.refuse(Refusal.ACCEPT_ERROR, str(task.exception()))


def protocol_factory(listener: Listener) -> Callable[[], asyncio.Protocol]:
    """Return what makes the protocol of each new transport.

    Plain listeners need no handshake, and that is where most connections are. Whether a PROXY
    header comes first is read for each connection: the setting may change.
    """
    if listener.config.protocol not in {ListenerProtocol.TCP, ListenerProtocol.UNIX}:
        return lambda: ConnectionHandshake(listener)

    def plain() -> asyncio.Protocol:
        if listener.config.proxy_protocol == "off":
            return StreamChannel(listener)
        return ConnectionHandshake(listener)

    return plain


def bind(config: ListenerConfig) -> list[socket.socket]:
    """Bind what the configuration names. Raises OSError with the address in its message."""
    try:
        if config.protocol is ListenerProtocol.UNIX:
            return [_bind_unix(Path(config.address), config.unix_mode)]
        if config.address == ANY:
            return _bind_both(config, "0.0.0.0", "::")  # noqa: S104  # asked for
        if config.address == LOCALHOST:
            return _bind_both(config, "127.0.0.1", "::1")
        return [_bind_tcp(config, config.address, config.port)]
    except OSError as exc:
        where = config.address
        if config.protocol is not ListenerProtocol.UNIX:
            where = f"{where} port {config.port}"
        message = f"listener {config.label}: cannot listen on {where}: {exc.strerror or exc}"
        raise OSError(exc.errno, message) from exc


def _bind_tcp(config: ListenerConfig, address: str, port: int) -> socket.socket:
    info = socket.getaddrinfo(
        address, port, type=socket.SOCK_STREAM, flags=socket.AI_NUMERICHOST | socket.AI_PASSIVE
    )
    family, kind, protocol, _, sockaddr = info[0]
    sock = socket.socket(family, kind, protocol)
    try:
        sock.setblocking(False)
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if config.reuse_port:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        if family == socket.AF_INET6:
            sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
        # Accepted sockets inherit these: no system call per connection.
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        if config.tcp_keepalive_s:
            _set_keepalive(sock, config.tcp_keepalive_s)
        sock.bind(sockaddr)
    except BaseException:
        sock.close()
        raise
    return sock


def _set_keepalive(sock: socket.socket, idle_s: int) -> None:
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, int(idle_s > 0))
    if not idle_s:
        return
    idle = getattr(socket, "TCP_KEEPIDLE", getattr(socket, "TCP_KEEPALIVE", None))
    if idle is not None:
        sock.setsockopt(socket.IPPROTO_TCP, idle, idle_s)
    if hasattr(socket, "TCP_KEEPINTVL"):
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPINTVL, max(1, idle_s // 4))
    if hasattr(socket, "TCP_KEEPCNT"):
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPCNT, _KEEPALIVE_PROBES)


def _bind_both(config: ListenerConfig, ipv4: str, ipv6: str) -> list[socket.socket]:
    """An address of each family, on one port; IPv4 alone where there is no IPv6."""
    attempts = PORT_ATTEMPTS if config.port == 0 else 1
    for attempt in range(attempts):
        v4 = _bind_tcp(config, ipv4, config.port)
        port = v4.getsockname()[1]
        try:
            return [v4, _bind_tcp(config, ipv6, port)]
        except OSError as exc:
            if exc.errno == errno.EADDRINUSE:
                v4.close()
                if attempt + 1 < attempts:
                    continue
                raise
            log.warning(
                "IPv6 not available, listening on IPv4 only",
                extra={"listener": config.label, "error": str(exc)},
            )
            return [v4]
    raise AssertionError("unreachable")


def _bind_unix(path: Path, mode: int) -> socket.socket:
    _remove_stale_socket(path)
    sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        sock.setblocking(False)
        # Between bind and chmod no process may connect that the mode does not allow to.
        umask = os.umask(0o777 & ~mode)
        try:
            sock.bind(str(path))
        finally:
            os.umask(umask)
        path.chmod(mode)
    except BaseException:
        sock.close()
        raise
    return sock


def _remove_stale_socket(path: Path) -> None:
    """Remove a socket file that no process listens on; keep anything else at the path."""
    try:
        if not stat.S_ISSOCK(path.lstat().st_mode):
            raise OSError(errno.EEXIST, "a file that is not a socket exists")
    except FileNotFoundError:
        return
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
        probe.settimeout(1.0)
        try:
            probe.connect(str(path))
        except ConnectionRefusedError:
            path.unlink(missing_ok=True)
            return
    raise OSError(errno.EADDRINUSE, os.strerror(errno.EADDRINUSE))


def _socket_file(sockets: Sequence[socket.socket]) -> tuple[int, int] | None:
    """Device and inode at the path of a Unix socket; None if there is no file, or no path."""
    for sock in sockets:
        if sock.family == socket.AF_UNIX:
            with contextlib.suppress(OSError):
                status = Path(sock.getsockname()).lstat()
                return status.st_dev, status.st_ino
    return None


def _set_mode(sock: socket.socket, mode: int) -> None:
    Path(sock.getsockname()).chmod(mode)


def _remove_own_socket(sock: socket.socket) -> None:
    Path(sock.getsockname()).unlink(missing_ok=True)


def bound_address(sock: socket.socket) -> str:
    """Return ``host:port``, ``[host]:port`` or a path, as bound."""
    name = sock.getsockname()
    if isinstance(name, tuple):
        host, port = name[0], name[1]
        return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
    return str(name)
