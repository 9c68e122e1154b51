"""Which connection has taken over from another one."""

from __future__ import annotations

from tidegate.record.events import Event, Kind
from tidegate.record.successors import with_successors


def _event(kind: Kind, at: float, address: str, edge: str = "edge-1") -> Event:
    reason = "session_taken_over" if kind is Kind.TAKEN_OVER else ""
    return Event(at=at, kind=kind, client="c", reason=reason, edge=edge, address=address)


def _details(*events: Event) -> list[str]:
    """What each takeover says; the newest event comes first, as in a page."""
    newest = sorted(events, key=lambda event: event.at, reverse=True)
    return [one.detail for one in with_successors(newest) if one.kind is Kind.TAKEN_OVER]


def test_a_takeover_says_from_where_the_newer_connection_is() -> None:
    assert _details(
        _event(Kind.CONNECTED, 1.0, "a:1"),
        _event(Kind.CONNECTED, 5.0, "b:2", "edge-2"),
        _event(Kind.TAKEN_OVER, 5.1, "a:1"),
    ) == ["from b:2 at edge-2"]


def test_each_of_several_takeovers_in_a_second_names_its_own() -> None:
    assert _details(
        _event(Kind.CONNECTED, 1.0, "a:1"),
        _event(Kind.TAKEN_OVER, 1.1, "a:1"),
        _event(Kind.CONNECTED, 1.2, "b:2"),
        _event(Kind.TAKEN_OVER, 1.3, "b:2"),
        _event(Kind.CONNECTED, 1.4, "c:3"),
    ) == ["from c:3 at edge-1", "from b:2 at edge-1"]


def test_a_takeover_without_its_newer_connection_says_nothing() -> None:
    assert _details(_event(Kind.CONNECTED, 1.0, "a:1"), _event(Kind.TAKEN_OVER, 9.0, "a:1")) == [""]


def test_a_connection_long_before_is_not_the_newer_one() -> None:
    """The event of the older connection itself is no longer in the record."""
    assert _details(
        _event(Kind.CONNECTED, 1.0, "z:9"),
        _event(Kind.TAKEN_OVER, 5.0, "a:1"),
        _event(Kind.CONNECTED, 5.2, "b:2"),
    ) == ["from b:2 at edge-1"]
