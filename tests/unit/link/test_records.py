"""Packed records: what comes back, what is refused, and that no bytes do harm."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tidegate.link import records
from tidegate.link.records import MalformedRecords
from tidegate.mqtt.packets import Publish

NUMBERS = st.integers(0, 2**64 - 1)
TEXTS = st.text(st.characters(exclude_categories=["Cs"]), max_size=12)
MESSAGES = st.builds(
    Publish,
    topic=TEXTS,
    payload=st.binary(max_size=20),
    qos=st.integers(0, 2),
    retain=st.booleans(),
    properties=st.binary(max_size=8),
    expires_at_ms=NUMBERS,
)
PLAIN = records.encode_message(Publish("a/b", b"xyz", 1, True), "c", 7, 9)


@given(
    st.lists(
        st.tuples(
            MESSAGES, TEXTS, NUMBERS, NUMBERS, st.sampled_from([records.MESSAGE, records.PUSH])
        ),
        max_size=5,
    )
)
def test_messages_come_back_in_their_order(
    sent: list[tuple[Publish, str, int, int, int]],
) -> None:
    data = b"".join(
        records.encode_message(message, name, number, epoch, kind)
        for message, name, number, epoch, kind in sent
    )
    found = []
    for record in records.decode(data):
        flags, number, epoch, topic, name = record[:5]
        message = records.message_of(data, record)
        assert message.topic == topic
        found.append((message, name, number, epoch, flags & records.KIND))
    assert found == sent
    assert records.count_messages(data) == sum(one[-1] == records.MESSAGE for one in sent)


@given(TEXTS, NUMBERS, NUMBERS, st.lists(NUMBERS, max_size=5))
def test_a_completion_comes_back(name: str, number: int, epoch: int, seqs: list[int]) -> None:
    data = records.encode_completion(name, number, epoch, seqs)
    (record,) = records.decode(data)
    assert record[0] & records.KIND == records.COMPLETE
    assert (record[1], record[2], record[4]) == (number, epoch, name)
    assert records.seqs_of(data, record) == seqs
    assert records.count_messages(data) == 0


def test_the_bytes_are_as_the_protocol_says() -> None:
    """Both ends may be of different releases: the layout never changes within a version."""
    message = Publish("a/b", b"xyz", 1, True, properties=b"\x01\x01", expires_at_ms=5)
    assert records.encode_message(message, "c", 7, 9, records.PUSH) == (
        b"\x15"
        b"\0\0\0\x03\0\0\0\x01\0\0\0\x02\0\0\0\x03"
        b"\0\0\0\0\0\0\0\x07\0\0\0\0\0\0\0\x09\0\0\0\0\0\0\0\x05"
        b"a/bc\x01\x01xyz"
    )
    assert records.encode_completion("c", 1, 2, [3, 4]) == (
        b"\x20"
        b"\0\0\0\0\0\0\0\x01\0\0\0\0\0\0\0\x10"
        b"\0\0\0\0\0\0\0\x01\0\0\0\0\0\0\0\x02\0\0\0\0\0\0\0\0"
        b"c\0\0\0\0\0\0\0\x03\0\0\0\0\0\0\0\x04"
    )


def test_a_trace_and_subscription_identifiers_have_no_field() -> None:
    assert records.is_plain(Publish("t", b"x", 2, True, properties=b"p", expires_at_ms=3))
    assert not records.is_plain(Publish("t", trace=b"trace"))
    assert not records.is_plain(Publish("t", subscription_identifiers=(1,)))


@pytest.mark.parametrize("cut", range(1, len(PLAIN)))
def test_a_record_that_is_cut_off_is_refused(cut: int) -> None:
    decoding = records.decode(PLAIN + PLAIN[:cut])
    assert next(decoding)[0] == 5  # the first one is whole
    with pytest.raises(MalformedRecords):
        next(decoding)


def test_text_that_is_not_utf8_is_refused() -> None:
    with pytest.raises(MalformedRecords):
        list(records.decode(PLAIN.replace(b"a/b", b"\xff\xfe\xfd")))


def test_a_seq_that_is_cut_off_is_refused() -> None:
    data = bytearray(records.encode_completion("c", 1, 2, [3]))
    data[16] -= 1  # of the payload
    whole = bytes(data[:-1])
    (record,) = records.decode(whole)
    with pytest.raises(MalformedRecords):
        records.seqs_of(whole, record)


@given(st.one_of(st.binary(max_size=200), st.binary(max_size=40).map(lambda more: PLAIN + more)))
def test_arbitrary_bytes_are_records_or_refused(data: bytes) -> None:
    """Whatever is found lies within the bytes, and covers them without a gap."""
    at = 0
    try:
        for record in records.decode(data):
            begin, properties_at, payload_at, end = record[-4:]
            assert at == begin < properties_at <= payload_at <= end <= len(data)
            records.message_of(data, record)
            at = end
    except MalformedRecords:
        return
    assert at == len(data)
