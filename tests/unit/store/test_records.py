"""Stored records: what is written can be read, and what cannot be read is named."""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tidegate.mqtt.packets import Publish, SubscriptionOptions, Will
from tidegate.store import records
from tidegate.store.records import RecordError, UnknownRecordVersion

TEXT = st.text(max_size=40)
TOPIC = st.text(min_size=1, max_size=40)
U32 = st.integers(0, 0xFFFFFFFF)
TIME = st.integers(0, 2**63)


@given(
    TOPIC,
    st.binary(max_size=300),
    st.integers(0, 2),
    st.booleans(),
    st.binary(max_size=300),
    st.lists(U32, max_size=300).map(tuple),
    TIME,
    st.text(max_size=300),
)
def test_a_queued_message_is_read_as_it_was_written(
    topic: str,
    payload: bytes,
    qos: int,
    retain: bool,
    properties: bytes,
    identifiers: tuple[int, ...],
    expires_at_ms: int,
    group: str,
) -> None:
    publish = Publish(topic, payload, properties=properties, message_expiry_interval=5)
    record = records.encode_queued(publish, qos, retain, identifiers, expires_at_ms, group)
    assert records.queued_group(record) == group
    assert records.decode_queued(record) == Publish(
        topic,
        payload,
        qos=qos,
        retain=retain,
        properties=properties,
        subscription_identifiers=identifiers,
        expires_at_ms=expires_at_ms,
    )


@given(TOPIC, st.binary(max_size=300), st.integers(0, 2), st.binary(max_size=300), TIME, TIME)
def test_a_retained_message_is_read_as_it_was_written(
    topic: str, payload: bytes, qos: int, properties: bytes, expires_at_ms: int, received_at_ms: int
) -> None:
    publish = Publish(
        topic, payload, qos=qos, retain=True, properties=properties, expires_at_ms=expires_at_ms
    )
    found = records.decode_retained(records.encode_retained(publish, received_at_ms))
    assert found == records.RetainedRecord(publish, received_at_ms)


@given(
    st.builds(
        Will,
        topic=TOPIC,
        payload=st.binary(max_size=300),
        qos=st.integers(0, 2),
        retain=st.booleans(),
        properties=st.binary(max_size=300),
        message_expiry_interval=st.none() | U32,
        will_delay_interval=U32,
    ),
    TEXT,
    st.none() | TEXT,
)
def test_a_will_is_read_as_it_was_written(will: Will, client_id: str, username: str | None) -> None:
    found = records.decode_will(records.encode_will(will, client_id, username))
    assert found == records.WillRecord(will, client_id, username)


@given(
    st.builds(
        SubscriptionOptions,
        qos=st.integers(0, 2),
        no_local=st.booleans(),
        retain_as_published=st.booleans(),
        retain_handling=st.integers(0, 2),
        subscription_identifier=st.integers(0, 268_435_455),
    )
)
def test_subscription_options_are_read_as_they_were_written(options: SubscriptionOptions) -> None:
    assert records.decode_options(records.encode_options(options)) == options


def test_the_forms_of_version_1_never_change() -> None:
    publish = Publish("a/b", b"xy", qos=1, properties=b"\x01\x01", expires_at_ms=258)
    assert records.encode_queued(publish, 1, True) == (
        b"\x11"  # queued message, version 1
        b"\x25"  # properties, retain, QoS 1
        b"\x00\x03a/b"  # topic
        b"\x00\x00\x00\x02\x01\x01"  # properties
        b"xy"  # payload
    )
    assert records.encode_queued(Publish("a", b"x"), 2, False, (7,), 258) == (
        b"\x11\x1a\x00\x01a"  # identifiers, expiry, QoS 2; topic
        b"\x00\x00\x00\x00\x00\x00\x01\x02"  # expires at
        b"\x00\x01\x00\x00\x00\x07"  # one identifier
        b"x"
    )
    assert records.encode_queued(Publish("a", b"x"), 1, False, (), 258, "g/é") == (
        b"\x11\x49\x00\x01a"  # group, expiry, QoS 1; topic
        b"\x00\x04g/\xc3\xa9"  # group
        b"\x00\x00\x00\x00\x00\x00\x01\x02"  # expires at
        b"x"
    )
    assert records.encode_retained(publish, 3) == (
        b"\x21\x2d"  # retained message, version 1; properties, expiry, retain, QoS 1
        b"\x00\x00\x00\x00\x00\x00\x00\x03"  # received at
        b"\x00\x03a/b"
        b"\x00\x00\x00\x00\x00\x00\x01\x02"
        b"\x00\x00\x00\x02\x01\x01"
        b"xy"
    )
    will = Will("t", b"p", 1, True, b"\x01\x00", 9, 8)
    assert records.encode_will(will, "c", "u") == (
        b"\x31\x1d"  # will, version 1; user name, expiry, retain, QoS 1
        b"\x00\x00\x00\x08\x00\x00\x00\x09"  # delay, expiry interval
        b"\x00\x01\x00\x01\x00\x01\x00\x00\x00\x02"  # lengths
        b"tcu\x01\x00p"
    )
    options = SubscriptionOptions(1, True, True, 2, 5)
    assert records.encode_options(options) == b"\x41\x2d\x00\x00\x00\x05"


_SAMPLES: list[tuple[Callable[[bytes], Any], bytes]] = [
    (
        records.decode_queued,
        records.encode_queued(Publish("a/b", b"", properties=b"12345"), 1, True, (1, 2), 99),
    ),
    (records.decode_queued, records.encode_queued(Publish("a/b", b""), 1, True, (), 0, "g/a/+")),
    (records.queued_group, records.encode_queued(Publish("", b""), 1, True, (), 0, "g/a/+")),
    (
        records.decode_retained,
        records.encode_retained(Publish("a/b", b"", properties=b"12345", expires_at_ms=9), 1),
    ),
    (records.decode_will, records.encode_will(Will("t", b"", properties=b"12"), "c", "u")),
    (records.decode_options, records.encode_options(SubscriptionOptions(1))),
]


@pytest.mark.parametrize(("decode", "record"), _SAMPLES)
def test_a_record_cut_short_is_refused(decode: Callable[[bytes], Any], record: bytes) -> None:
    decode(record)
    for length in range(len(record)):
        with pytest.raises(RecordError):
            decode(record[:length])


@pytest.mark.parametrize(("decode", "record"), _SAMPLES)
def test_a_newer_form_is_named(decode: Callable[[bytes], Any], record: bytes) -> None:
    newer = bytes([record[0] + 1]) + record[1:]
    with pytest.raises(UnknownRecordVersion, match=f"0x{newer[0]:02x}.*newer version"):
        decode(newer)


@given(st.binary(max_size=80))
def test_any_bytes_are_read_or_refused(record: bytes) -> None:
    for decode, sample in _SAMPLES:
        for attempt in (record, sample[:1] + record):
            with contextlib.suppress(RecordError):
                decode(attempt)
