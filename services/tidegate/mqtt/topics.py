"""Topic names and topic filters: what is allowed, and what matches what (MQTT5 §4.7).

Pure functions on strings that are already valid UTF-8 without U+0000. Raise ``MalformedPacket`` or
``ProtocolViolation`` with the reason code the specification names.
"""

from __future__ import annotations

from typing import Final

from tidegate.mqtt.enums import ReasonCode
from tidegate.mqtt.errors import ProtocolViolation

SHARE_PREFIX: Final = "$share/"


def validate_topic_name(topic: str, max_levels: int = 65_535, max_bytes: int = 65_535) -> None:
    """Check a topic name. Raises ProtocolViolation (0x90).

    [MQTT-3.3.2-2], [MQTT-4.7.3-1]
    """
    if not topic:
        raise ProtocolViolation(
            "topic name must not be empty",
            reason_code=ReasonCode.TOPIC_NAME_INVALID,
            statement="MQTT-4.7.3-1",
        )
    if "+" in topic or "#" in topic:
        raise ProtocolViolation(
            "topic name must not contain wildcards",
            reason_code=ReasonCode.TOPIC_NAME_INVALID,
            statement="MQTT-3.3.2-2",
        )
    if topic.count("/") >= max_levels or len(topic) * 4 > max_bytes < len(topic.encode()):
        raise ProtocolViolation(
            "topic name is too long or has too many levels",
            reason_code=ReasonCode.TOPIC_NAME_INVALID,
        )


def validate_topic_filter(
    topic_filter: str, max_levels: int = 65_535, max_bytes: int = 65_535
) -> None:
    """Check a topic filter, ``$share/…`` included. Raises ProtocolViolation (0x8F).

    [MQTT-4.7.1-1], [MQTT-4.7.1-2], [MQTT-4.7.3-1], [MQTT-4.8.2-1], [MQTT-4.8.2-2]
    """
    plain = topic_filter
    if topic_filter.startswith(SHARE_PREFIX):
        share_name, separator, plain = topic_filter[len(SHARE_PREFIX) :].partition("/")
        if not share_name:
            raise _invalid("share name must not be empty", "MQTT-4.8.2-1")
        if "+" in share_name or "#" in share_name:
            raise _invalid("share name must not contain wildcards", "MQTT-4.8.2-2")
        if not separator or not plain:
            raise _invalid("share name must be followed by / and a topic filter", "MQTT-4.8.2-2")
    if not plain:
        raise _invalid("topic filter must not be empty", "MQTT-4.7.3-1")
    if "#" in plain:
        at = plain.index("#")
        if at != len(plain) - 1 or (at and plain[at - 1] != "/"):
            raise _invalid("wildcard # must occupy the whole last level", "MQTT-4.7.1-1")
    if "+" in plain:
        for level in plain.split("/"):
            if "+" in level and level != "+":
                raise _invalid("wildcard + must occupy a whole level", "MQTT-4.7.1-2")
    if plain.count("/") >= max_levels or len(plain) * 4 > max_bytes < len(plain.encode()):
        raise _invalid("topic filter is too long or has too many levels", "")


def _invalid(message: str, statement: str) -> ProtocolViolation:
    return ProtocolViolation(
        message, reason_code=ReasonCode.TOPIC_FILTER_INVALID, statement=statement
    )


def parse_shared(topic_filter: str) -> tuple[str, str] | None:
    """Return (share name, topic filter) of a shared subscription's filter, None for any other."""
    if not topic_filter.startswith(SHARE_PREFIX):
        return None
    share_name, _, plain = topic_filter[len(SHARE_PREFIX) :].partition("/")
    return share_name, plain


def has_wildcards(topic_filter: str) -> bool:
    """Say whether a filter contains + or #."""
    return "+" in topic_filter or "#" in topic_filter


def matches(topic_filter: str, topic: str) -> bool:
    """Say whether a topic name matches a filter (not a shared one): the plain reading of §4.7.

    [MQTT-4.7.2-1]: a filter that begins with a wildcard does not match a topic that begins with $.
    """
    if topic[:1] == "$" and topic_filter[:1] in ("+", "#"):
        return False
    wanted = topic_filter.split("/")
    levels = topic.split("/")
    for at, level in enumerate(wanted):
        if level == "#":
            return True
        if at >= len(levels) or level not in ("+", levels[at]):
            return False
    return len(wanted) == len(levels)
