"""Listeners as the command line writes them: ``tcp://127.0.0.1:1883``, ``ws://[::1]:8083/mqtt``.

Called by ``config_file``. Pure text; nothing is resolved or opened here.
"""

from __future__ import annotations

from typing import Any, Final

#: The ports that a URL without one means; ``auto`` has none, because it is made for odd ports.
DEFAULT_PORTS: Final = {"tcp": 1883, "tls": 8883, "ws": 8083, "wss": 8084}
_ALIASES: Final = {"mqtt": "tcp", "mqtts": "tls", "ssl": "tls"}
_SCHEMES: Final = (*DEFAULT_PORTS, "auto", "unix")


class ListenerUrlError(ValueError):
    """The text is not a listener. The message is a sentence without the text itself."""


def parse_listener_url(url: str) -> dict[str, Any]:
    """Return the keys of a ``ListenerConfig`` that ``url`` stands for.

    Raises ListenerUrlError. A path is for ws, wss and auto (the only path then accepted) and for
    unix (the socket's file); an empty host or ``*`` is every address of both families.
    """
    scheme, separator, rest = url.partition("://")
    scheme = _ALIASES.get(scheme.lower(), scheme.lower())
    if not separator or scheme not in _SCHEMES:
        raise ListenerUrlError(f"expected SCHEME://ADDRESS:PORT with {', '.join(_SCHEMES)}")
    if any(mark in rest for mark in "?#@ "):
        raise ListenerUrlError("user, query and fragment are not supported")
    if scheme == "unix":
        if not rest:
            raise ListenerUrlError("expected unix:///path/of/the/socket")
        return {"protocol": "unix", "address": rest, "port": 0}
    location, slash, path = rest.partition("/")
    address, port = split_address(location)
    if port is None:
        if scheme not in DEFAULT_PORTS:
            raise ListenerUrlError("expected a port")
        port = DEFAULT_PORTS[scheme]
    listener: dict[str, Any] = {"protocol": scheme, "address": address, "port": port}
    if slash:
        if scheme in {"tcp", "tls"} and path:
            raise ListenerUrlError(f"a {scheme} listener must not have a path")
        if scheme not in {"tcp", "tls"}:
            listener["paths"] = [f"/{path}"]
    return listener


def split_address(text: str) -> tuple[str, int | None]:
    """Split ``ADDRESS:PORT`` (IPv6 in brackets) into the address and the port, None without one."""
    if text.startswith("["):
        address, bracket, rest = text[1:].partition("]")
        if not bracket or (rest and not rest.startswith(":")):
            raise ListenerUrlError("expected [IPV6-ADDRESS]:PORT")
        port_text = rest[1:] if rest else None
    else:
        if text.count(":") > 1:
            raise ListenerUrlError("IPv6 addresses must be in brackets, as in [::1]:1883")
        address, colon, after = text.partition(":")
        port_text = after if colon else None
    if port_text is None:
        return address or "*", None
    if not port_text.isascii() or not port_text.isdigit() or int(port_text) > 65535:
        raise ListenerUrlError("expected a port from 0 to 65535")
    return address or "*", int(port_text)
