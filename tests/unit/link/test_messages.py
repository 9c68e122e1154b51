"""Every value that crosses the link comes out as it went in."""

from __future__ import annotations

from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from tidegate.link.interfaces import AttachedSession, AttachSession, DetachSession
from tidegate.link.messages import (
    OVERHEAD_BYTES,
    read_attach,
    read_attached,
    read_detach,
    read_message,
    read_options,
    read_subscriptions,
    size_of,
    write_attach,
    write_attached,
    write_detach,
    write_message,
    write_options,
    write_subscriptions,
)
from tidegate.link.v1 import link_pb2 as pb
from tidegate.mqtt.packets import Publish, SubscriptionOptions, Will

TEXT = st.text(st.characters(exclude_categories=["Cs"]), max_size=40)
UINT16 = st.integers(0, 2**16 - 1)
UINT32 = st.integers(0, 2**32 - 1)
UINT64 = st.integers(0, 2**64 - 1)
BYTES = st.binary(max_size=200)
IDENTIFIER = st.integers(1, 268_435_455)

MESSAGES = st.builds(
    Publish,
    TEXT,
    BYTES,
    st.integers(0, 2),
    st.booleans(),
    properties=BYTES,
    subscription_identifiers=st.lists(IDENTIFIER, max_size=4).map(tuple),
    expires_at_ms=UINT64,
    trace=st.one_of(st.just(b""), st.binary(min_size=25, max_size=25)),
)
OPTIONS = st.builds(
    SubscriptionOptions,
    st.integers(0, 2),
    st.booleans(),
    st.booleans(),
    st.integers(0, 2),
    st.one_of(st.just(0), IDENTIFIER),
)
SUBSCRIPTIONS = st.lists(st.tuples(TEXT, OPTIONS), max_size=5)
WILLS = st.builds(
    Will,
    TEXT,
    BYTES,
    st.integers(0, 2),
    st.booleans(),
    BYTES,
    st.one_of(st.none(), UINT32),
    UINT32,
)


def _over_the_wire(message: Any) -> Any:
    found = type(message)()
    found.ParseFromString(message.SerializeToString())
    return found


@given(MESSAGES)
def test_a_message_survives(message: Publish) -> None:
    out = pb.Message()
    write_message(out, message)
    assert read_message(_over_the_wire(out)) == message


@given(MESSAGES, UINT16, st.booleans(), UINT32)
def test_what_belongs_to_one_hop_does_not_travel(
    message: Publish, packet_id: int, dup: bool, interval_s: int
) -> None:
    message.packet_id, message.dup, message.topic_alias = packet_id, dup, 7
    message.message_expiry_interval = interval_s
    out = pb.Message()
    write_message(out, message)
    found = read_message(_over_the_wire(out))
    assert (found.packet_id, found.dup, found.topic_alias) == (0, False, 0)
    # Expiry travels as a moment: it must not begin anew at every hop [MQTT-3.3.2-6].
    assert found.message_expiry_interval is None
    assert found.expires_at_ms == message.expires_at_ms


@given(MESSAGES)
def test_both_ends_count_a_message_with_the_same_size(message: Publish) -> None:
    out = pb.Message()
    write_message(out, message)
    assert size_of(read_message(_over_the_wire(out))) == size_of(message) >= OVERHEAD_BYTES


@given(OPTIONS)
def test_options_survive(options: SubscriptionOptions) -> None:
    out = pb.Options()
    write_options(out, options)
    assert read_options(_over_the_wire(out)) == options


@given(SUBSCRIPTIONS)
def test_subscriptions_survive_in_order(
    subscriptions: list[tuple[str, SubscriptionOptions]],
) -> None:
    out = pb.SubscribeRequest()
    write_subscriptions(out, subscriptions)
    assert read_subscriptions(_over_the_wire(out).subscriptions) == subscriptions


@given(
    st.builds(
        AttachSession,
        TEXT,
        st.booleans(),
        UINT32,
        st.one_of(st.none(), WILLS),
        st.one_of(st.none(), TEXT),
    )
)
def test_a_connect_survives(request: AttachSession) -> None:
    out = pb.AttachRequest()
    write_attach(out, request)
    assert read_attach(_over_the_wire(out)) == request


@given(
    # One that is not durable has nothing more than its number.
    st.builds(AttachedSession, UINT64, st.just(0), st.just(False))
    | st.builds(
        AttachedSession,
        UINT64,
        UINT64.filter(bool),
        st.booleans(),
        UINT64,
        st.booleans(),
        UINT64,
        st.lists(UINT64, max_size=5),
        BYTES,
        st.dictionaries(UINT16, UINT64, max_size=5),
        SUBSCRIPTIONS,
    )
)
def test_a_session_survives(session: AttachedSession) -> None:
    out = pb.AttachReply()
    write_attached(out, session)
    assert read_attached(_over_the_wire(out)) == session


@given(st.builds(DetachSession, TEXT, UINT64, st.booleans(), st.one_of(st.none(), UINT32), UINT64))
def test_the_end_of_a_connection_survives(request: DetachSession) -> None:
    out = pb.DetachRequest()
    write_detach(out, request)
    assert read_detach(_over_the_wire(out)) == request
