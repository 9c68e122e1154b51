"""SUBSCRIBE and UNSUBSCRIBE: check each filter, apply what is allowed, answer, send retained.

Called by a client, in order with its other packets. The answer goes out when every router has the
subscriptions (and the store, for a durable session).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from tidegate.edge.auth.acl import Readable
from tidegate.edge.client.group_rights import look_at_groups, rights_of
from tidegate.edge.client.retained_replay import RetainedReplay
from tidegate.link.interfaces import RouterUnavailable, SessionFenced
from tidegate.mqtt.enums import ProtocolVersion, ReasonCode
from tidegate.mqtt.packets import SubAck, Subscribe, SubscriptionOptions, UnsubAck, Unsubscribe
from tidegate.mqtt.topics import has_wildcards, parse_shared

if TYPE_CHECKING:
    from tidegate.edge.auth.acl import ClientAcl
    from tidegate.edge.client.client import Client
    from tidegate.edge.client.registry import ClientRegistry


def mounted(client: Client, topic_filter: str) -> str:
    """Put a filter under the listener's mount point (inside $share/name/ if it is shared)."""
    mount_point = client.listener.mount_point
    if not mount_point:
        return topic_filter
    share = parse_shared(topic_filter)
    if share is None:
        return mount_point + topic_filter
    return f"$share/{share[0]}/{mount_point}{share[1]}"


def _check(client: Client, topic_filter: str, options: SubscriptionOptions, count: int) -> int:
    """Return the granted QoS, or the reason code of a refusal (MQTT5 §3.9.3)."""
    context = client.context
    limits, features = context.limits, context.features
    if (
        topic_filter.count("/") >= limits.max_topic_levels
        or len(topic_filter.encode()) > limits.max_topic_bytes
    ):
        return ReasonCode.TOPIC_FILTER_INVALID
    shared = topic_filter.startswith("$share/")
    if shared and not features.shared_subscriptions:
        return ReasonCode.SHARED_SUBSCRIPTIONS_NOT_SUPPORTED
    if not features.wildcard_subscriptions and has_wildcards(topic_filter):
        return ReasonCode.WILDCARD_SUBSCRIPTIONS_NOT_SUPPORTED
    if limits.max_subscriptions and count >= limits.max_subscriptions:
        return ReasonCode.QUOTA_EXCEEDED
    return min(options.qos, client.listener.max_qos)


def _decide(
    client: Client, packet: Subscribe
) -> tuple[list[int], dict[str, SubscriptionOptions], list[str]]:
    """Return the reason codes, what is granted, and what the client is not authorized to read."""
    context = client.context
    codes: list[int] = []
    wanted: dict[str, SubscriptionOptions] = {}
    denied: list[str] = []
    for topic_filter, options in packet.subscriptions:
        name = mounted(client, topic_filter)
        known = name in client.subscriptions or name in wanted
        count = len(client.subscriptions) + len(wanted)
        code = _check(client, topic_filter, options, 0 if known else count)
        if code < 0x80 and client.acl is not None and not _is_authorized(client, name):
            denied.append(name)
            if context.authorizer.denied_subscribe == "refuse":
                code = ReasonCode.NOT_AUTHORIZED
        codes.append(code)
        if code < 0x80:
            if code != options.qos:
                options = SubscriptionOptions(  # noqa: PLW2901 - the granted ones
                    code,
                    options.no_local,
                    options.retain_as_published,
                    options.retain_handling,
                    options.subscription_identifier,
                )
            wanted[name] = options
    if denied:
        _report_denied(client, denied)
    return codes, wanted, denied


@dataclass(slots=True, frozen=True)
class _Granted:
    """What a SUBSCRIBE is granted."""

    applied: list[tuple[str, SubscriptionOptions]]
    #: Shared subscriptions without messages: the client is no member of these.
    unjoined: set[str]
    #: The permissions by which that was decided.
    acl: ClientAcl | None


async def subscribe(client: Client, packet: Subscribe, registry: ClientRegistry) -> None:
    """Answer a SUBSCRIBE [MQTT-3.8.4-1], [MQTT-3.8.4-5]."""
    context = client.context
    if client.maximum_packet_size_bytes and not _can_answer(
        client, SubAck(packet.packet_id, [0] * len(packet.subscriptions))
    ):
        return
    if client.group_rights is not None:
        await client.group_rights.settled()
        if client.is_closed:
            return
    acl = client.acl
    codes, wanted, denied = _decide(client, packet)
    unjoined = {name for name in denied if name in wanted and name.startswith("$share/")}
    granted = _Granted(list(wanted.items()), unjoined, acl)
    wants_retained = _wanting_retained(client, granted.applied)
    answer = SubAck(packet.packet_id, codes)
    if wants_retained and not context.router.retains_none(list(wants_retained)):
        is_stored = await _subscribe_with_retained(
            client, granted, wants_retained, registry, answer
        )
    else:
        is_stored = await _store(client, granted, wants_retained, "")
        if is_stored and wants_retained and not context.router.retains_none(list(wants_retained)):
            # Something has been retained meanwhile.
            is_stored = await _subscribe_with_retained(
                client, granted, wants_retained, registry, answer, is_stored=True
            )
        elif is_stored and not client.is_closed:
            _take_effect(client, granted, registry)
            await context.router.interest_synced()
            if not client.is_closed:
                client.send_packet(answer)
    if is_stored is False and not client.is_closed:
        _refuse_all(client, packet.packet_id, codes)


def _wanting_retained(
    client: Client, applied: Sequence[tuple[str, SubscriptionOptions]]
) -> dict[str, SubscriptionOptions]:
    """Which subscriptions have retained messages sent [MQTT-3.3.1-9..11]."""
    return {
        name: options
        for name, options in applied
        if not name.startswith("$share/")
        and (
            options.retain_handling == 0
            or (options.retain_handling == 1 and name not in client.subscriptions)
        )
    }


async def _store(
    client: Client,
    granted: _Granted,
    wants_retained: Mapping[str, SubscriptionOptions],
    generation: str,
) -> bool | None:
    """Have routers and the store apply subscriptions; None: another connection has the session."""
    applied, unjoined = granted.applied, granted.unjoined
    try:
        await client.context.router.subscribe(
            client.context.edge_id,
            client.session_key,
            client.epoch,
            client.incarnation,
            [item for item in applied if item[0] not in unjoined] if unjoined else applied,
            generation=generation,
            again=[name for name in wants_retained if name in client.subscriptions],
        )
    except SessionFenced as error:
        client.fenced(error)
        return None
    except RouterUnavailable:
        return False
    return True


def _take_effect(client: Client, granted: _Granted, registry: ClientRegistry) -> None:
    """From now on the client gets what is published."""
    registry.subscribe(client, granted.applied)
    if granted.unjoined or client.group_rights is not None:
        rights_of(client).subscribed(dict(granted.applied), granted.unjoined)
    if client.acl is not granted.acl:
        look_at_groups(client)
    client.context.recorder.subscribed(client, [name for name, _ in granted.applied])


async def _subscribe_with_retained(
    client: Client,
    granted: _Granted,
    wants_retained: Mapping[str, SubscriptionOptions],
    registry: ClientRegistry,
    answer: SubAck,
    *,
    is_stored: bool = False,
) -> bool | None:
    """Read what is retained, then do all in one turn: effect, SUBACK, retained messages.

    So each message comes once: retained if it was published before, else live [MQTT-3.3.1-12].
    Return what ``_store`` does. ``is_stored``: the subscriptions have been.
    """
    held = [
        name
        for name, _ in granted.applied
        if name not in wants_retained and not name.startswith("$share/")
    ]
    registry.interest.hold(held)
    replay = RetainedReplay(client, client.delivery, registry, wants_retained)
    replay.begin()
    is_handed_over = False
    try:
        if client.incarnation:
            outcome = await _store_and_queue(client, granted, replay, registry, is_stored=is_stored)
        else:
            outcome = await _store(client, granted, wants_retained, "")
            if outcome:
                await _read_or_sync(client, replay)
        if not outcome or client.is_closed:
            return outcome
        _take_effect(client, granted, registry)
        replay.take_effect()
        client.send_packet(answer)
        is_handed_over = True
        client.delivery.send_retained(replay)
    finally:
        client.delivery.resume()
        registry.interest.release(held)
        if not is_handed_over:
            replay.end()
    return outcome


async def _read_or_sync(client: Client, replay: RetainedReplay) -> bool:
    """Read a first page of what is retained; without it at least have routers know the filters."""
    if await replay.read_first():
        return True
    if not client.is_closed:
        await client.context.router.interest_synced()
    return False


async def _store_and_queue(
    client: Client,
    granted: _Granted,
    replay: RetainedReplay,
    registry: ClientRegistry,
    *,
    is_stored: bool,
) -> bool | None:
    """Store subscriptions of a durable session, with what is to be sent if there is anything."""
    if not is_stored and await _read_or_sync(client, replay) and replay.is_empty:
        outcome = await _store(client, granted, replay.filters, "")
        if not outcome or replay.is_empty:
            return outcome
        is_stored = True
    # "+": these subscriptions have just been stored, and count as new ones.
    generation = registry.next_generation(client) + ("+" if is_stored else "")
    replay.unrecorded = dict.fromkeys(replay.filters, generation)
    outcome = await _store(client, granted, replay.filters, generation)
    if outcome and not client.is_closed and await _read_or_sync(client, replay):
        client.delivery.pause()  # SUBACK comes first
        await replay.queue_first()
    return outcome


def _is_authorized(client: Client, name: str) -> bool:
    """Whether the ACL lets a client read something of a filter; all of it if it is shared.

    A member of a group is given messages that no other member gets, so it must be able to read
    each of them.
    """
    readable = client.readable(name)
    return readable is Readable.ALL or (
        readable is Readable.SOME and not name.startswith("$share/")
    )


def _report_denied(client: Client, names: list[str]) -> None:
    """Count and log what a SUBSCRIBE asked for that the client is not authorized to read."""
    context = client.context
    context.counters.acl_denied["subscribe"] += len(names)
    is_granted = context.authorizer.denied_subscribe == "grant"
    context.connection_log.subscribe_denied(client, names, is_granted)
    context.recorder.subscribe_denied(client, names, is_granted)


def _can_answer(client: Client, answer: SubAck | UnsubAck) -> bool:
    """Close, with nothing applied, when the answer cannot be sent to the client."""
    if client.can_be_sent(answer):
        return True
    client.close_unanswered(answer)
    return False


def _refuse_all(client: Client, packet_id: int, codes: list[int]) -> None:
    """No router or store: nothing was applied; the client may try again."""
    if client.version < ProtocolVersion.V5:
        # 3.1.1 has one failure code and clients rarely look at it: make it plain by closing.
        client.disconnect(ReasonCode.SERVER_UNAVAILABLE)
        return
    refused = [code if code >= 0x80 else int(ReasonCode.UNSPECIFIED_ERROR) for code in codes]
    client.send_packet(SubAck(packet_id, refused))


async def unsubscribe(client: Client, packet: Unsubscribe, registry: ClientRegistry) -> None:
    """Answer an UNSUBSCRIBE [MQTT-3.10.4-4], [MQTT-3.10.4-5], [MQTT-3.10.4-6]."""
    context = client.context
    if client.maximum_packet_size_bytes and not _can_answer(
        client, UnsubAck(packet.packet_id, [0] * len(packet.topic_filters))
    ):
        return
    if client.group_rights is not None:
        await client.group_rights.settled()
        if client.is_closed:
            return
    names = [mounted(client, topic_filter) for topic_filter in packet.topic_filters]
    found: dict[str, None] = {}
    codes: list[int] = []
    for name in names:
        if name in client.subscriptions and name not in found:
            found[name] = None
            codes.append(ReasonCode.SUCCESS)
        else:
            codes.append(ReasonCode.NO_SUBSCRIPTION_EXISTED)
    known = list(found)
    try:
        if known:
            await context.router.unsubscribe(
                context.edge_id, client.session_key, client.epoch, client.incarnation, known
            )
    except SessionFenced as error:
        client.fenced(error)
        return
    except RouterUnavailable:
        client.disconnect(ReasonCode.SERVER_UNAVAILABLE)
        return
    if client.is_closed:
        return
    registry.unsubscribe(client, known)
    if client.group_rights is not None:
        client.group_rights.unsubscribed(known)
    client.delivery.forget_retained(known)
    client.send_packet(UnsubAck(packet.packet_id, codes))


def resume_retained(
    client: Client, replays: Sequence[tuple[str, str, str]], registry: ClientRegistry
) -> None:
    """Send the retained messages that earlier connections of a session were still to be sent."""
    parts: dict[tuple[str, str], dict[str, SubscriptionOptions]] = {}
    for name, generation, topic in replays:
        options = client.subscriptions.get(name)
        if options is not None:
            parts.setdefault((generation, topic), {})[name] = options
    for (generation, topic), filters in parts.items():
        replay = RetainedReplay(client, client.delivery, registry, filters, generation)
        replay.go_on(topic)
        client.delivery.send_retained(replay)
