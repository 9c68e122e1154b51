"""One ban: whom it names, why, and until when; and its stored form.

Made by the console and by ``flapping``; stored by ``store.ban_store``.
"""

from __future__ import annotations

import ipaddress
import json
from dataclasses import dataclass
from enum import StrEnum
from hashlib import sha256
from typing import Any, Final, Self

#: Longest reason, and longest name of who has made a ban, in characters.
MAX_TEXT: Final = 256
#: Longest client identifier or user: every edge has all bans.
MAX_VALUE: Final = 1_024

_MAPPED: Final = ipaddress.IPv6Network("::ffff:0:0/96")


class BanKind(StrEnum):
    """What a ban names."""

    CLIENT = "client"
    """A client identifier, of one mount point."""
    USER = "user"
    ADDRESS = "address"
    """An IP address, or a network in CIDR notation."""


@dataclass(slots=True, frozen=True)
class Ban:
    """See the module's docstring. Times are broker time, Unix seconds."""

    kind: BanKind
    #: Client identifier, user, or address or network in canonical form.
    value: str
    #: Of a client: the mount point of its listener.
    mount_point: str = ""
    reason: str = ""
    #: When it ends; None: never.
    until: float | None = None
    at: float = 0.0
    #: Who has made it.
    by: str = ""

    @classmethod
    def make(
        cls,
        kind: BanKind,
        value: str,
        *,
        mount_point: str = "",
        reason: str = "",
        until: float | None = None,
        at: float = 0.0,
        by: str = "",
    ) -> Self:
        """Return a ban. Raises ValueError with a sentence for the person who asked for it."""
        if not value:
            raise ValueError(f"a ban needs a {kind.value}")
        for name, text in ((kind.value, value), ("mount point", mount_point)):
            if len(text) > MAX_VALUE:
                raise ValueError(f"the {name} is longer than {MAX_VALUE} characters")
        if kind is BanKind.ADDRESS:
            value = _network(value)
        if until is not None and until <= at:
            raise ValueError("the end of the ban has passed already")
        mount_point = mount_point if kind is BanKind.CLIENT else ""
        return cls(kind, value, mount_point, reason[:MAX_TEXT], until, at, by[:MAX_TEXT])

    @property
    def id(self) -> str:
        """Its identifier: the same for whoever bans the same again, which replaces it."""
        name = f"{self.kind.value}\0{self.mount_point}\0{self.value}"
        return sha256(name.encode()).hexdigest()[:16]

    def is_over(self, now: float) -> bool:
        """Whether it has ended."""
        return self.until is not None and self.until <= now

    def encode(self) -> bytes:
        """Return the stored form."""
        values = {
            "kind": self.kind.value,
            "value": self.value,
            "mount_point": self.mount_point,
            "reason": self.reason,
            "until": self.until,
            "at": self.at,
            "by": self.by,
        }
        return json.dumps(values, ensure_ascii=False, separators=(",", ":")).encode()

    @classmethod
    def decode(cls, stored: bytes) -> Self | None:
        """Return a stored ban; None if it is of a version with other bans."""
        try:
            values: dict[str, Any] = json.loads(stored)
            if values["kind"] == BanKind.ADDRESS:
                ipaddress.ip_network(values["value"])
            value, mount_point, reason, by = (
                str(values[name]) for name in ("value", "mount_point", "reason", "by")
            )
            until = None if values["until"] is None else float(values["until"])
            kind = BanKind(values["kind"])
            return cls(kind, value, mount_point, reason, until, float(values["at"]), by)
        except (ValueError, TypeError, KeyError):
            return None

    def to_json(self) -> dict[str, object]:
        """Return the ban for the API: what it names is under the name of its kind."""
        shown: dict[str, object] = {"id": self.id, self.kind.value: self.value}
        if self.kind is BanKind.CLIENT:
            shown["mount_point"] = self.mount_point
        return shown | {
            "reason": self.reason,
            "until": self.until,
            "at": self.at,
            "by": self.by,
        }


def _network(text: str) -> str:
    """An address or a network in canonical form; an IPv4-mapped one as IPv4. Raises ValueError."""
    try:
        network = ipaddress.ip_network(text.strip(), strict=False)
    except ValueError:
        raise ValueError(
            f"{text!r} is no IP address and no network; expected 10.1.2.3, 10.1.2.0/24 or "
            "2001:db8::/32"
        ) from None
    if not network.prefixlen:
        raise ValueError(f"{text!r} is every address")
    if isinstance(network, ipaddress.IPv6Network) and network.subnet_of(_MAPPED):
        address = network.network_address.ipv4_mapped
        assert address is not None
        prefix_length = network.prefixlen - _MAPPED.prefixlen
        if not prefix_length:
            raise ValueError(f"{text!r} is every address")
        return str(ipaddress.IPv4Network((address, prefix_length))).removesuffix("/32")
    return str(network).removesuffix("/32" if network.version == 4 else "/128")
