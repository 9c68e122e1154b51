"""The settings of mosquitto that hold for the whole broker, as sections of Tidegate's.

Called by ``conversion`` with each line that belongs to no listener. ``HANDLERS`` has one function
for each directive with an equivalent.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Final, TypeAlias

from tidegate.convert import values
from tidegate.convert.conf_file import Line
from tidegate.convert.findings import Findings
from tidegate.runtime.config.model import MAX_PACKET_SIZE_BYTES

#: Sessions of mosquitto never expire by themselves.
NEVER_S: Final = 0xFFFFFFFF
_SMALLEST_PACKET_BYTES: Final = 128
_SMALLEST_QUEUE_BYTES: Final = 1024
#: In place of "no limit", which a queue must have.
_LONG_QUEUE: Final = 1_000_000
_MOST_IN_FLIGHT: Final = 65_535
_LONGEST_KEEP_ALIVE_S: Final = 65_535
_LONGEST_SYS_INTERVAL_S: Final = 86_400
#: From the most to the least that is logged.
_LEVELS: Final = ("debug", "info", "warning", "error")
_LEVEL_OF_TYPE: Final = {
    "all": "debug",
    "debug": "debug",
    "internal": "debug",
    "subscribe": "debug",
    "unsubscribe": "debug",
    "websockets": "debug",
    "information": "info",
    "notice": "info",
    "warning": "warning",
    "error": "error",
    "none": "error",
}


class Draft:
    """The configuration while it is made: sections of plain data, and what there is to say."""

    __slots__ = ("findings", "kept", "sections")

    def __init__(self, findings: Findings) -> None:
        self.findings = findings
        self.sections: dict[str, dict[str, Any]] = {}
        #: Keys that are set because mosquitto does so without being told, with the reason.
        self.kept: dict[str, str] = {}

    def set(self, key: str, value: object) -> None:
        """Set ``section.key``."""
        section, _, name = key.partition(".")
        self.sections.setdefault(section, {})[name] = value

    def get(self, key: str) -> Any:
        """Return the value of ``section.key``, None if it is not set."""
        section, _, name = key.partition(".")
        return self.sections.get(section, {}).get(name)

    def keep(self, key: str, value: object, reason: str) -> None:
        """Set a key that no line has set to what mosquitto does by default."""
        if self.get(key) is None:
            self.set(key, value)
            self.kept[key] = reason


Handler: TypeAlias = Callable[[Draft, Line], None]


def _flag(key: str) -> Handler:
    return lambda draft, line: draft.set(key, values.flag(line))


def _no_duplicates(draft: Draft, line: Line) -> None:
    if values.flag(line):
        draft.findings.note(
            line,
            "a client with overlapping subscriptions gets one copy of a message, with the highest "
            "QoS of them",
        )


def _retain_source(draft: Draft, line: Line) -> None:
    if values.flag(line):
        draft.findings.remark(
            line,
            "not carried over: a retained message stays when its publisher loses the right to "
            "publish; delete such messages with an empty retained message",
        )


def _global_max_connections(draft: Draft, line: Line) -> None:
    limit = values.number(line)
    if limit >= 0:
        draft.set("limits.max_connections", limit)
        draft.findings.note(line, "`limits.max_connections` counts for each process")


def _log_dest(draft: Draft, line: Line) -> None:
    if line.first == "stdout":
        draft.findings.note(line, "lines are written to standard error")
    elif line.first != "stderr":
        draft.findings.remark(
            line,
            "not carried over: lines are written to standard error; let systemd, the container's "
            "runtime or the shell send them where they are to be",
        )


def _log_type(draft: Draft, line: Line) -> None:
    level = _LEVEL_OF_TYPE.get(line.first)
    if level is None:
        raise line.error(f"unknown type {line.first or '(nothing)'}")
    before = draft.get("log.level")
    if before is None or _LEVELS.index(level) < _LEVELS.index(before):
        draft.set("log.level", level)


def _max_in_flight(draft: Draft, line: Line) -> None:
    limit = values.number(line)
    draft.set("limits.max_in_flight", limit if 0 < limit < _MOST_IN_FLIGHT else _MOST_IN_FLIGHT)


def _max_keep_alive(draft: Draft, line: Line) -> None:
    limit = values.number(line)
    if not 0 <= limit <= _LONGEST_KEEP_ALIVE_S:
        raise line.error(f"expected a number from 0 to {_LONGEST_KEEP_ALIVE_S}")
    if 0 < limit < _LONGEST_KEEP_ALIVE_S:
        draft.set("limits.max_keep_alive_s", limit)
        draft.findings.note(line, "enforced for MQTT 3 clients, too")


def _max_packet_size(draft: Draft, line: Line) -> None:
    limit = values.number(line)
    used = min(max(limit, _SMALLEST_PACKET_BYTES), MAX_PACKET_SIZE_BYTES)
    draft.set("limits.max_packet_size_bytes", used)
    if used != limit:
        draft.findings.note(line, f"{used} is used: the nearest value that is allowed")


def _max_queued_bytes(draft: Draft, line: Line) -> None:
    limit = values.number(line)
    if limit > 0:
        draft.set("limits.max_durable_queue_bytes", limit)
        draft.set("limits.max_queued_bytes", max(limit, _SMALLEST_QUEUE_BYTES))


def _max_queued_messages(draft: Draft, line: Line) -> None:
    limit = values.number(line)
    draft.set("limits.max_queued_messages", limit if limit > 0 else _LONG_QUEUE)
    if limit <= 0:
        draft.findings.remark(
            line,
            f"not carried over: every queue has a limit; {_LONG_QUEUE} is set. Choose "
            "`limits.max_queued_messages` so that the store's memory suffices",
        )


def _memory_limit(draft: Draft, line: Line) -> None:
    limit = values.number(line)
    if limit > 0:
        draft.set("store.max_memory_bytes", limit)
        draft.findings.note(
            line,
            "the limit of the embedded store; that of the processes is set where they are started "
            "(MemoryMax of the systemd unit, the container's limit)",
        )


def _persistence(draft: Draft, line: Line) -> None:
    if not values.flag(line):
        draft.findings.note(line, "sessions and retained messages are always stored")


def _persistence_file(draft: Draft, line: Line) -> None:
    draft.findings.note(
        line,
        "mosquitto's database is not read: sessions, queued and retained messages of mosquitto are "
        "not carried over. Publish retained messages again",
    )


def _persistence_location(draft: Draft, line: Line) -> None:
    directory = values.path(line) / "tidegate"
    draft.set("store.data_dir", str(directory))
    draft.findings.note(
        line,
        f"the store's data is kept in {directory}. mosquitto.db is not read: sessions, queued and "
        "retained messages of mosquitto are not carried over",
    )


def _session_expiry(draft: Draft, line: Line) -> None:
    expiry_s = min(values.duration_s(line), NEVER_S)
    draft.set("limits.max_session_expiry_s", expiry_s)
    draft.set("limits.legacy_session_expiry_s", expiry_s)


def _sys_interval(draft: Draft, line: Line) -> None:
    interval_s = values.number(line)
    if not 0 <= interval_s <= _LONGEST_SYS_INTERVAL_S:
        raise line.error(f"expected a number from 0 to {_LONGEST_SYS_INTERVAL_S}")
    draft.set("features.sys_interval_s", interval_s)


def _upgrade_qos(draft: Draft, line: Line) -> None:
    if values.flag(line):
        draft.findings.remark(
            line,
            "not carried over: a message has the lower QoS of publisher and subscription; let "
            "publishers use the QoS that subscribers are to get",
        )


HANDLERS: Final[Mapping[str, Handler]] = {
    "allow_duplicate_messages": _no_duplicates,
    "check_retain_source": _retain_source,
    "connection_messages": _flag("log.connections"),
    "global_max_connections": _global_max_connections,
    "log_dest": _log_dest,
    "log_type": _log_type,
    "max_inflight_messages": _max_in_flight,
    "max_keepalive": _max_keep_alive,
    "max_packet_size": _max_packet_size,
    "max_queued_bytes": _max_queued_bytes,
    "max_queued_messages": _max_queued_messages,
    "memory_limit": _memory_limit,
    "persistence": _persistence,
    "retained_persistence": _persistence,
    "persistence_file": _persistence_file,
    "persistence_location": _persistence_location,
    "persistent_client_expiration": _session_expiry,
    "queue_qos0_messages": _flag("features.queue_qos0"),
    "retain_available": _flag("features.retain"),
    "sys_interval": _sys_interval,
    "upgrade_outgoing_qos": _upgrade_qos,
}
