"""Packets as values: compared by what they say, and silent about what is the users'."""

from __future__ import annotations

from tidegate.mqtt.packets import Auth, Connect, Properties, Publish, Will


def test_publishes_are_equal_when_everything_in_them_is() -> None:
    assert Publish("a", b"x", 1, packet_id=2) == Publish("a", b"x", 1, packet_id=2)
    assert Publish("a", b"x") != Publish("a", b"y")
    assert Publish("a") != Publish("a", message_expiry_interval=0)
    assert Publish("a") != "a"


def test_a_publish_shows_the_size_of_its_payload_only() -> None:
    shown = repr(Publish("a/b", b"secret"))
    assert "a/b" in shown
    assert "6 bytes" in shown
    assert "secret" not in shown


def test_a_connect_does_not_show_its_password_or_what_its_will_says() -> None:
    shown = repr(Connect("c", username="u", password=b"secret", will=Will("w", b"last words")))
    assert "secret" not in shown
    assert "last words" not in shown


def test_authentication_data_is_not_shown() -> None:
    assert "secret" not in repr(Auth(0x18, Properties(authentication_data=b"secret")))
