"""Events of the record: their closed sets, and their two forms."""

from __future__ import annotations

import pytest

from tidegate.record.events import MAX_TEXT, REASONS, Event, Kind, kind_of_close
from tidegate.runtime.telemetry.counters import CLOSE_REASONS


def test_every_kind_has_reasons_and_every_end_of_a_connection_a_kind() -> None:
    assert set(REASONS) == set(Kind)
    for reason in CLOSE_REASONS:
        assert reason in REASONS[kind_of_close(reason)]
    assert kind_of_close("session_taken_over") is Kind.TAKEN_OVER
    assert kind_of_close("keep_alive_timeout") is Kind.KEEP_ALIVE_EXPIRED
    assert kind_of_close("peer_closed") is Kind.DISCONNECTED


def test_a_reason_of_another_kind_is_refused() -> None:
    with pytest.raises(ValueError, match="no reason 'queue_full'"):
        Event(at=1.0, kind=Kind.REFUSED, client="c", reason="queue_full")


@pytest.mark.parametrize(
    "event",
    [
        Event(at=1.5, kind=Kind.SUBSCRIBED, client="c"),
        Event(
            at=1764468000.123,
            kind=Kind.CONNECTED,
            client="sensor-17",
            mount_point="a/",
            edge="edge-1",
            address="10.1.2.3:5333",
            listener="tcp",
            user="söx",
            version="5.0",
            keep_alive_s=1,
            session_present=True,
        ),
        Event(at=2.0, kind=Kind.DROPPED, client="c", reason="queue_full", topic="a/b", count=17),
        Event(at=2.0, kind=Kind.CONNECTED, client="c", keep_alive_s=0, session_present=False),
    ],
)
def test_an_event_survives_its_stored_form_and_that_of_the_api(event: Event) -> None:
    assert Event.decode(event.encode()) == event
    assert Event.from_json(event.to_json()) == event
    stored = Event.decode(event.encode(), "1-2")
    assert stored is not None
    assert stored.to_json()["id"] == "1-2"


def test_what_is_empty_is_neither_stored_nor_shown() -> None:
    event = Event(at=1.5, kind=Kind.SUBSCRIBED, client="c")
    assert event.encode() == b'[1500,"subscribed","c"]'
    assert "topic" not in event.to_json()
    assert "count" not in event.to_json()


@pytest.mark.parametrize(
    "stored", [b"", b"{}", b"[]", b"[1]", b'[1,"later","c"]', b'[1,"refused","c","","later"]']
)
def test_an_event_of_another_version_is_left_out(stored: bytes) -> None:
    assert Event.decode(stored) is None


def test_texts_that_clients_choose_are_cut() -> None:
    event = Event(
        at=1.0, kind=Kind.PUBLISH_DENIED, client="c", reason="not_authorized", topic="t" * 999
    )
    assert len(event.topic) == MAX_TEXT
    assert event.topic.endswith("…")
