"""Topic names, topic filters, shared subscriptions and the reference matcher (chapter 4.7)."""

from __future__ import annotations

import pytest

from tidegate.mqtt.enums import ReasonCode
from tidegate.mqtt.errors import ProtocolViolation
from tidegate.mqtt.topics import (
    has_wildcards,
    matches,
    parse_shared,
    validate_topic_filter,
    validate_topic_name,
)

statement = pytest.mark.statement


@pytest.mark.parametrize("topic", ["a", "/", "//", "a b", "$SYS/x", "é/\ufeff", "a" * 65_535])
@statement("MQTT-4.7.3-3", "MQTT311-4.7.3-3")
def test_a_topic_name_may_be_nearly_anything(topic: str) -> None:
    validate_topic_name(topic)


@pytest.mark.parametrize(
    ("topic", "rule"),
    [
        pytest.param("", "MQTT-4.7.3-1", marks=statement("MQTT-4.7.3-1", "MQTT311-4.7.3-1")),
        pytest.param("+", "MQTT-3.3.2-2", marks=statement("MQTT-3.3.2-2", "MQTT-4.7.0-1")),
        pytest.param("a/b#", "MQTT-3.3.2-2", marks=statement("MQTT311-3.3.2-2")),
    ],
)
def test_a_topic_name_is_not_empty_and_has_no_wildcards(topic: str, rule: str) -> None:
    with pytest.raises(ProtocolViolation) as caught:
        validate_topic_name(topic)
    assert caught.value.reason_code == ReasonCode.TOPIC_NAME_INVALID
    assert caught.value.statement == rule


def test_a_topic_name_has_so_many_levels_and_bytes_at_most() -> None:
    validate_topic_name("a/b/c", max_levels=3)
    validate_topic_name("éé", max_bytes=4)
    for topic, levels, size in (("a/b/c", 2, 100), ("ééa", 9, 4), ("abcde", 9, 4)):
        with pytest.raises(ProtocolViolation) as caught:
            validate_topic_name(topic, levels, size)
        assert caught.value.reason_code == ReasonCode.TOPIC_NAME_INVALID


@pytest.mark.parametrize(
    "topic_filter",
    ["#", "+", "a/#", "a/+", "+/+", "/+", "+/", "/", "/#", "a", "$SYS/#", "$share", "$share/g/#",
     "$share/g//", "$sharex/", "$share/ /+"],
)  # fmt: skip
def test_a_filter_with_wildcards_alone_in_their_levels_is_valid(topic_filter: str) -> None:
    validate_topic_filter(topic_filter)


@pytest.mark.parametrize(
    ("topic_filter", "rule"),
    [
        ("", "MQTT-4.7.3-1"),
        ("#/a", "MQTT-4.7.1-1"),
        ("a#", "MQTT-4.7.1-1"),
        ("##", "MQTT-4.7.1-1"),
        ("a/#/#", "MQTT-4.7.1-1"),
        ("+#", "MQTT-4.7.1-1"),
        ("a+", "MQTT-4.7.1-2"),
        ("++/a", "MQTT-4.7.1-2"),
        ("a/+b/c", "MQTT-4.7.1-2"),
        ("$share//a", "MQTT-4.8.2-1"),
        ("$share/", "MQTT-4.8.2-1"),
        ("$share/a+/b", "MQTT-4.8.2-2"),
        ("$share/#/b", "MQTT-4.8.2-2"),
        ("$share/#", "MQTT-4.8.2-2"),
        ("$share/g", "MQTT-4.8.2-2"),
        ("$share/g/", "MQTT-4.8.2-2"),
        ("$share/g/a#", "MQTT-4.7.1-1"),
        ("$share/g/a+", "MQTT-4.7.1-2"),
    ],
)
@statement("MQTT-4.7.1-1", "MQTT-4.7.1-2", "MQTT-4.7.3-1", "MQTT-4.8.2-1", "MQTT-4.8.2-2")
@statement("MQTT311-4.7.1-2", "MQTT311-4.7.1-3", "MQTT311-4.7.3-1")
def test_any_other_filter_is_invalid(topic_filter: str, rule: str) -> None:
    with pytest.raises(ProtocolViolation) as caught:
        validate_topic_filter(topic_filter)
    assert caught.value.reason_code == ReasonCode.TOPIC_FILTER_INVALID
    assert caught.value.statement == rule


def test_a_filter_has_so_many_levels_and_bytes_at_most() -> None:
    validate_topic_filter("$share/group/a/b", max_levels=2, max_bytes=3)
    for topic_filter, levels, size in (("a/+/#", 2, 100), ("$share/g/a/b", 1, 9), ("éé", 9, 3)):
        with pytest.raises(ProtocolViolation) as caught:
            validate_topic_filter(topic_filter, levels, size)
        assert caught.value.reason_code == ReasonCode.TOPIC_FILTER_INVALID


def test_a_shared_filter_falls_into_share_name_and_filter() -> None:
    assert parse_shared("$share/g/a/#") == ("g", "a/#")
    assert parse_shared("$share/g//a") == ("g", "/a")
    assert parse_shared("a/b") is None
    assert parse_shared("$share") is None
    assert parse_shared("$SHARE/g/a") is None


def test_wildcards_are_found() -> None:
    assert has_wildcards("a/#")
    assert has_wildcards("+")
    assert not has_wildcards("a/b")


@pytest.mark.parametrize(
    ("topic_filter", "topic"),
    [
        ("a/b/#", "a/b"),
        ("a/b/#", "a/b/c"),
        ("a/b/#", "a/b/c/d"),
        ("a/b/#", "a/b/"),
        ("#", "a"),
        ("#", "/"),
        ("+", "a"),
        ("+/+", "/a"),
        ("/+", "/a"),
        ("a/+", "a/"),
        ("a/+/c", "a//c"),
        ("$SYS/#", "$SYS/broker"),
        ("$SYS/+", "$SYS/broker"),
        ("+/$x", "a/$x"),
        ("a", "a"),
        ("a//b", "a//b"),
    ],
)
@statement("MQTT-4.7.1-1", "MQTT-4.7.1-2")
def test_a_filter_matches(topic_filter: str, topic: str) -> None:
    assert matches(topic_filter, topic)


@pytest.mark.parametrize(
    ("topic_filter", "topic"),
    [
        ("+", "/a"),
        ("+", "a/b"),
        ("a/+", "a"),
        ("a/+", "a/b/c"),
        ("a/#", "ab"),
        ("a/b/#", "a"),
        ("a", "A"),
        ("a", "a/"),
        ("a/", "a"),
        ("/a", "a"),
        ("é", "e\u0301"),
        ("a/b", "a"),
    ],
)
@statement("MQTT-4.7.3-4", "MQTT311-4.7.3-4")
def test_a_filter_does_not_match(topic_filter: str, topic: str) -> None:
    assert not matches(topic_filter, topic)


@pytest.mark.parametrize("topic_filter", ["#", "+/x", "+/#", "+/+"])
@statement("MQTT-4.7.2-1", "MQTT311-4.7.2-1")
def test_a_leading_wildcard_does_not_match_a_topic_that_begins_with_dollar(
    topic_filter: str,
) -> None:
    assert not matches(topic_filter, "$SYS/x")
