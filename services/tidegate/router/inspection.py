"""What a router answers the console at its admin port: durable receivers, and shared groups.

Reads the routing table, which decides who gets a message; owns nothing. Made by ``roles``, called
by the admin server.
"""

from __future__ import annotations

from http import HTTPStatus
from itertools import islice
from typing import TYPE_CHECKING, Final

from tidegate.core.session_key import parts_of
from tidegate.mqtt.errors import MqttError
from tidegate.mqtt.topics import SHARE_PREFIX, matches, parse_shared, validate_topic_name
from tidegate.runtime.admin.control import Json, Page
from tidegate.runtime.admin.http import HttpError, Request, Response, is_number
from tidegate.runtime.admin.pieces import Turns, chosen_of, encoded, first_of, object_of

if TYPE_CHECKING:
    from tidegate.router.router import Router
    from tidegate.router.table import DurableTarget, RoutingTable, SharedMember

#: Sessions, groups or members in one answer.
MOST: Final = 1_000


def handlers_of(router: Router) -> dict[str, Page]:
    """Return the pages of a router."""
    pages = _Pages(router.table)
    return {
        "/durable-receivers": pages.receivers,
        "/shared-groups": pages.groups,
        "/shared-group": pages.group,
    }


class _Pages:
    def __init__(self, table: RoutingTable) -> None:
        self._table = table

    async def receivers(self, request: Request) -> Response:
        """Durable sessions and shared groups that a message on a topic goes to."""
        request.check_method("GET")
        topic = request.query.get("topic", "")
        try:
            validate_topic_name(topic)
        except MqttError as error:
            raise HttpError(HTTPStatus.BAD_REQUEST, f"topic: {error}.") from None
        route = self._table.route(topic)
        receivers, turns = [], Turns()
        for target in list(islice(route.durable, MOST)):
            names = list(target.session.subscriptions)
            matching = await chosen_of(names, lambda name: matches(name, topic), turns)
            receivers.append((target, matching))
        groups = await first_of(list(route.groups), MOST, lambda part: part, _name)
        return await object_of(
            {
                "receivers": await encoded(receivers, lambda each: _receiver(*each)),
                "groups": await encoded(groups, self._group),
                "more": len(route.durable) > MOST or len(route.groups) > MOST,
            }
        )

    async def groups(self, request: Request) -> Response:
        """Groups of shared subscriptions in the order of their names."""
        request.check_method("GET")
        limit, after = request.query.get("limit", "100"), request.query.get("after", "")
        if not is_number(limit) or not 1 <= int(limit) <= MOST:
            raise HttpError(HTTPStatus.BAD_REQUEST, f"limit must be from 1 to {MOST:,}.")
        found = await first_of(
            list(self._table.shared.groups()),
            int(limit) + 1,
            lambda part: [each for each in part if _name(each) > after],
            _name,
        )
        groups = await encoded(found[: int(limit)], self._group)
        return await object_of({"groups": groups, "more": len(found) > int(limit)})

    async def group(self, request: Request) -> Response:
        """The members of a group, the next one first."""
        request.check_method("GET")
        name = parse_shared(SHARE_PREFIX + request.query.get("name", ""))
        members = [] if name is None else list(islice(self._table.shared.members(*name), MOST + 1))
        if name is None or not members:
            raise HttpError(HTTPStatus.NOT_FOUND, "No group of shared subscriptions has this name.")
        return await object_of(
            {
                **self._group(name),
                "list": await encoded(members[:MOST], lambda each: _member(*each)),
                "more": len(members) > MOST,
            }
        )

    def _group(self, group: tuple[str, str]) -> Json:
        share_name, topic_filter = group
        members, connected = self._table.shared.count(share_name, topic_filter)
        return {
            "name": _name(group),
            "share_name": share_name,
            "filter": topic_filter,
            "members": members,
            "connected": connected,
        }


def _name(group: tuple[str, str]) -> str:
    share_name, topic_filter = group
    return f"{share_name}/{topic_filter}"


def _named(key: str) -> Json:
    mount_point, client_id = parts_of(key)
    return {"client_id": client_id, "mount_point": mount_point}


def _receiver(target: DurableTarget, names: list[str]) -> Json:
    session = target.session
    mount_point, _ = parts_of(session.client_id)
    return {
        **_named(session.client_id),
        "filters": sorted(name.removeprefix(mount_point) for name in names),
        "qos": target.qos,
        "no_local": target.own_qos < 0,
        "connected": session.edge is not None,
    }


def _member(key: str, member: SharedMember, is_connected: bool) -> Json:
    return {
        **_named(key),
        "connected": is_connected,
        "durable": member.session is not None,
        "incarnation": member.session.incarnation if member.session is not None else 0,
        "qos": member.options.qos,
    }
