"""The scenarios that are run against the broker and against mosquitto: scripts of raw packets.

Each ends its steps with ``settle``; support.traces writes down what every connection received.
"""

from __future__ import annotations

from support.mqtt_bytes import (
    PINGREQ,
    V5,
    V31,
    V311,
    Property,
    Will,
    acknowledge,
    auth,
    connect,
    disconnect,
    packet,
    publish,
    string,
    subscribe,
    two,
    unsubscribe,
)
from support.traces import Player, Scenario

AT_MOST_ONCE, AT_LEAST_ONCE, EXACTLY_ONCE = 0, 1, 2
NO_LOCAL, AS_PUBLISHED = 0x04, 0x08
ONLY_IF_NEW, NEVER = 0x10, 0x20


async def connecting(p: Player) -> None:
    p.limits_shown = True
    await p.send("five", connect(p.name("five")))
    await p.send("four", connect(p.name("four"), version=V311), version=V311)
    await p.send("three", connect(p.name("three"), version=V31), version=V31)
    await p.settle("every version")
    for who in ("five", "four", "three"):
        await p.send(who, PINGREQ)
    await p.settle("ping")
    for who in ("five", "four", "three"):
        await p.send(who, disconnect())
    await p.settle("disconnect")


async def empty_client_identifiers(p: Player) -> None:
    await p.send("five", connect(""))
    await p.send("five-not-clean", connect("", clean=False))
    await p.send("four", connect("", version=V311), version=V311)
    await p.send("four-not-clean", connect("", version=V311, clean=False), version=V311)
    await p.send("three", connect("", version=V31), version=V31)
    await p.settle("connect without a name")


async def unacceptable_connects(p: Player) -> None:
    await p.send("level-6", connect(p.name("a"), version=6))
    await p.send("name", connect(p.name("b"), protocol_name="MQXX"))
    await p.send("reserved-flag", connect(p.name("c"), flags=0x03))
    await p.send("ping-first", PINGREQ)
    await p.send("method", connect(p.name("d"), props=[("auth_method", "no-such-method")]))
    await p.send("auth", connect(p.name("e")))
    await p.settle("bad")
    await p.send("auth", auth(0x19, [("auth_method", "no-such-method")]))
    await p.settle("AUTH out of the blue")


async def a_second_connect(p: Player) -> None:
    hello = connect(p.name("twice"))
    await p.send("twice", hello)
    await p.settle("first")
    await p.send("twice", hello)
    await p.settle("second")


async def takeover(p: Player) -> None:
    for version, who in ((V5, "five"), (V311, "four")):
        hello = connect(p.name(who), version=version)
        await p.send(f"{who}-old", hello, version=version)
        await p.settle("old")
        await p.send(f"{who}-new", hello, version=version)
        await p.settle("new")


async def session_present(p: Player) -> None:
    keep = connect(p.name("kept"), clean=False, props=[("session_expiry", 60)])
    await p.send("kept", keep)
    await p.settle("new session")
    await p.send("kept", subscribe(1, [(p.topic("t"), 1)]), disconnect())
    await p.settle("subscribe and leave")
    await p.send("kept", keep)
    await p.settle("come back")
    await p.send("kept", disconnect(0, [("session_expiry", 0)]))
    await p.settle("leave for good")
    await p.send("kept", keep)
    await p.settle("new again")


async def raising_a_session_expiry_of_zero(p: Player) -> None:
    await p.send("zero", connect(p.name("zero")))
    await p.settle("connect")
    await p.send("zero", disconnect(0, [("session_expiry", 60)]))
    await p.settle("disconnect with an expiry")


async def overlapping_subscriptions(p: Player) -> None:
    await p.send("c", connect(p.name("c")))
    for number, topic_filter in enumerate(("a/#", "a/+", "a/b"), 1):
        identifier = [("subscription_identifier", number * 100)]
        await p.send(
            "c", subscribe(number, [(p.topic(topic_filter), number - 1)], props=identifier)
        )
    await p.settle("subscribe")
    await p.send("c", publish(p.topic("a/b"), b"x", qos=2, packet_id=9))
    await p.settle("publish")
    await p.send("c", acknowledge("PUBREL", 9))
    await p.settle("release")


async def retained_messages(p: Player) -> None:
    await p.send("c", connect(p.name("c")))
    for number, topic in enumerate(("r/1", "r/2"), 1):
        kept = publish(p.topic(topic), b"kept", qos=1, packet_id=number, retain=True)
        await p.send("c", kept)
    await p.settle("retain")
    await p.send("c", subscribe(3, [(p.topic("r/1"), AT_LEAST_ONCE)]))
    await p.settle("subscribe")
    await p.send("c", subscribe(4, [(p.topic("r/1"), AT_LEAST_ONCE)]))
    await p.settle("again")
    await p.send("c", subscribe(5, [(p.topic("r/1"), AT_LEAST_ONCE | ONLY_IF_NEW)]))
    await p.settle("again, only if new")
    await p.send("c", subscribe(6, [(p.topic("r/2"), AT_MOST_ONCE | NEVER | AS_PUBLISHED)]))
    await p.settle("never")
    await p.send("c", publish(p.topic("r/2"), b"live", retain=True))
    await p.settle("as published")
    await p.send("c", publish(p.topic("r/1"), b"", qos=1, packet_id=7, retain=True))
    await p.settle("remove")
    await p.send("c", subscribe(8, [(p.topic("r/#"), AT_MOST_ONCE)]))
    await p.settle("what is left")


async def shared_subscriptions(p: Player) -> None:
    await p.send("a", connect(p.name("a")))
    await p.send("a", publish(p.topic("s"), b"kept", qos=1, packet_id=1, retain=True))
    await p.settle("retain")
    await p.send("a", subscribe(2, [(f"$share/g/{p.topic('s')}", AT_LEAST_ONCE)]))
    await p.settle("share: no retained messages")
    await p.send("a", publish(p.topic("s"), b"one", qos=1, packet_id=3))
    await p.settle("publish")
    await p.send("a", unsubscribe(4, [f"$share/g/{p.topic('s')}", p.topic("unknown")]))
    await p.settle("leave the group")
    await p.send("a", subscribe(5, [(f"$share/g/{p.topic('s')}", NO_LOCAL)]))
    await p.settle("share with no local")


async def bad_filters(p: Player) -> None:
    for who, topic_filter in (
        ("hash", "a/#/b"),
        ("plus", "a+/b"),
        ("empty", ""),
        ("group", "$share//x"),
        ("group-plus", "$share/g+/x"),
        ("group-only", "$share/g"),
    ):
        await p.send(who, connect(p.name(who)), subscribe(1, [(topic_filter, 0)]))
    await p.send("none", connect(p.name("none")), subscribe(1, []))
    await p.send("qos-3", connect(p.name("qos-3")), subscribe(1, [("a", 3)]))
    await p.send("flags", connect(p.name("flags")), subscribe(1, [("a", 0)], flags=0))
    await p.send("id-0", connect(p.name("id-0")), subscribe(0, [("a", 0)]))
    await p.settle("subscribe")


async def bad_publishes(p: Player) -> None:
    cases = {
        "wildcard": publish("a/+", b"x"),
        "empty": publish("", b"x"),
        "qos-3": packet(0x36, string("a"), two(1), b"\x00"),
        "id-0": publish("a", b"x", qos=1, packet_id=0),
        "alias-0": publish("a", b"x", props=[("topic_alias", 0)]),
        "alias-unknown": publish("", b"x", props=[("topic_alias", 3)]),
        "alias-high": publish("a", b"x", props=[("topic_alias", 60000)]),
        "identifier": publish("a", b"x", props=[("subscription_identifier", 1)]),
        "utf-8": publish(b"a\xff", b"x"),
        "nul": publish(b"a\x00b", b"x"),
        "dup-qos-0": packet(0x38, string("a"), b"\x00x"),
        "format": publish("a", b"\xff\xfe", props=[("payload_format", 1)]),
        "response": publish("a", b"x", props=[("response_topic", "b/#")]),
        "dollar": publish("$SYS/broker/uptime", b"x", qos=1, packet_id=1),
    }
    for who, bad in cases.items():
        await p.send(who, connect(p.name(who)), bad)
    await p.settle("publish")


async def acknowledgements(p: Player) -> None:
    await p.send("c", connect(p.name("c")))
    await p.send("c", publish(p.topic("nobody"), b"1", qos=1, packet_id=1))
    await p.send("c", publish(p.topic("nobody"), b"2", qos=2, packet_id=2))
    await p.settle("nobody subscribes")
    await p.send("c", publish(p.topic("nobody"), b"2", qos=2, packet_id=2, dup=True))
    await p.settle("the same again")
    await p.send("c", acknowledge("PUBREL", 2))
    await p.settle("release")
    await p.send("c", acknowledge("PUBREL", 2))
    await p.settle("release again")
    await p.send("c", acknowledge("PUBACK", 77))
    await p.settle("PUBACK of nothing")
    await p.send("c", acknowledge("PUBREC", 78))
    await p.settle("PUBREC of nothing")
    await p.send("c", acknowledge("PUBCOMP", 79))
    await p.settle("PUBCOMP of nothing")
    await p.send("c", PINGREQ)
    await p.settle("still there?")


async def publishing_the_same_to_many(p: Player) -> None:
    for version, who in ((V5, "five"), (V311, "four"), (V31, "three")):
        await p.send(who, connect(p.name(who), version=version), version=version)
        await p.send(who, subscribe(1, [(p.topic("t"), 1)], version=version))
    await p.settle("subscribe")
    properties: list[Property] = [
        ("user", ("b", "1")),
        ("user", ("a", "2")),
        ("user", ("b", "1")),
        ("content_type", "text"),
        ("payload_format", 1),
        ("response_topic", "answer"),
        ("correlation", b"c"),
        ("message_expiry", 100_000),
    ]
    await p.send("five", publish(p.topic("t"), b"x", qos=1, packet_id=5, props=properties))
    await p.settle("publish")


async def redelivery(p: Player) -> None:
    keep = connect(p.name("c"), clean=False, props=[("session_expiry", 60)])
    await p.send("c", keep, subscribe(1, [(p.topic("t"), 2)]))
    await p.send("w", connect(p.name("w")))
    await p.settle("subscribe")
    await p.send("w", publish(p.topic("t"), b"one", qos=1, packet_id=1))
    await p.settle("publish")
    await p.send("w", publish(p.topic("t"), b"two", qos=2, packet_id=2))
    await p.settle("publish")
    await p.send("w", acknowledge("PUBREL", 2))
    await p.settle("delivered, not acknowledged")
    await p.drop("c")
    await p.settle("gone")
    await p.send("w", publish(p.topic("t"), b"zero", qos=0))
    await p.send("w", publish(p.topic("t"), b"three", qos=1, packet_id=3))
    await p.settle("more meanwhile")
    await p.send("c", keep)
    await p.settle("back")


async def wills(p: Player) -> None:
    await p.send("w", connect(p.name("w")), subscribe(1, [(p.topic("will/#"), 1)]))
    await p.settle("watch")
    for who in ("leaves", "fails", "dies"):
        will = Will(p.topic(f"will/{who}"), who.encode(), qos=1)
        await p.send(who, connect(p.name(who), will=will))
    await p.settle("connect")
    await p.send("leaves", disconnect(0))
    await p.settle("disconnect")
    await p.send("fails", disconnect(4))
    await p.settle("disconnect with will")
    await p.drop("dies")
    await p.settle("no disconnect")


async def malformed_packets(p: Player) -> None:
    cases = {
        "type-0": b"\x00\x00",
        "length-5": b"\x30\xff\xff\xff\xff\x01",
        "ping-body": b"\xc0\x01\x00",
        "pubrel-flags": acknowledge("PUBREL", 1, flags=0),
        "connack": b"\x20\x03\x00\x00\x00",
        "property-twice": publish("a", b"", props=[("content_type", "a"), ("content_type", "b")]),
        "property-unknown": publish("a", b"", props=b"\x02\x7f\x00"),
        "disconnect-flags": disconnect(flags=1),
        "unsubscribe-none": unsubscribe(1, []),
    }
    for who, bad in cases.items():
        await p.send(who, connect(p.name(who)), bad)
    await p.settle("send")


SCENARIOS: dict[str, Scenario] = {
    scenario.__name__: scenario
    for scenario in (
        connecting,
        empty_client_identifiers,
        unacceptable_connects,
        a_second_connect,
        takeover,
        session_present,
        raising_a_session_expiry_of_zero,
        overlapping_subscriptions,
        retained_messages,
        shared_subscriptions,
        bad_filters,
        bad_publishes,
        acknowledgements,
        publishing_the_same_to_many,
        redelivery,
        wills,
        malformed_packets,
    )
}
