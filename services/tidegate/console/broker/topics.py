"""Who gets a message on a topic, and the groups of shared subscriptions.

Routers say whom a topic goes to, edges what their ACL says of each of them: nothing is matched
here.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from typing import Any, Final
from urllib.parse import quote

from tidegate.console.errors import not_found
from tidegate.console.models.clients import ClientState
from tidegate.console.models.topics import (
    GroupMember,
    Receiver,
    ReceiverGroup,
    Receivers,
    SharedGroup,
    SharedGroupDetail,
    SharedGroupPage,
    Verdict,
)
from tidegate.console.nodes.client import NodeClient, NodeError
from tidegate.console.nodes.pool import Nodes
from tidegate.console.store_link import StoreLink
from tidegate.core.session_key import session_key
from tidegate.store.api import StoreUnavailable
from tidegate.store.inspection.sessions import SessionInspection

#: Receivers, and members of a group, in one answer.
MOST_RECEIVERS: Final = 1_000
_MOST_MEMBERS: Final = 200
#: Members whose queues are read at the same time.
_AT_ONCE: Final = 8

_Key = tuple[str, str]


class Topics:
    """See the module's docstring."""

    def __init__(self, nodes: Nodes, store: StoreLink) -> None:
        self._nodes = nodes
        self._store = store

    async def receivers(self, topic: str) -> Receivers:
        """Return who gets a message on a topic, and who is denied it."""
        answers = await self._nodes.ask_edges(
            "GET", "/connected-receivers", params={"topic": topic}
        )
        missing = answers.missing
        found: dict[_Key, Receiver] = {}
        more = False
        for answer in answers.good:
            more = more or answer.body["more"]
            for each in answer.body["receivers"]:
                found[each["client_id"], each["mount_point"]] = _connected(answer.node.name, each)
        routed = await self._of_a_router("/durable-receivers", {"topic": topic}, missing)
        groups: list[ReceiverGroup] = []
        if routed is not None:
            more = more or routed["more"]
            offline = [
                each
                for each in routed["receivers"]
                if (each["client_id"], each["mount_point"]) not in found
            ]
            for each in await self._with_rights(topic, offline, missing):
                found[each.client_id, each.mount_point] = each
            groups = [_group(each) for each in routed["groups"]]
        receivers = sorted(found.values(), key=lambda one: (one.mount_point, one.client_id))
        return Receivers(
            topic=topic,
            receivers=receivers[:MOST_RECEIVERS],
            groups=groups,
            more=more or len(receivers) > MOST_RECEIVERS,
            missing=missing,
        )

    async def _with_rights(
        self, topic: str, found: Sequence[Mapping[str, Any]], missing: list[str]
    ) -> list[Receiver]:
        """Shape durable receivers, with what an edge says of their rights."""
        if not found:
            return []
        users: Sequence[str | None] = [None] * len(found)
        keys = [session_key(each["mount_point"], each["client_id"]) for each in found]
        try:
            users = await SessionInspection(self._store.access).users(keys)
        except StoreUnavailable as error:
            missing.append(f"store: {error}")
        clients = [
            {"client_id": each["client_id"], "mount_point": each["mount_point"], "username": user}
            for each, user in zip(found, users, strict=True)
        ]
        rights = await self._rights(topic, clients)
        return [
            Receiver(
                client_id=each["client_id"],
                mount_point=each["mount_point"],
                state=ClientState.CONNECTED if each["connected"] else ClientState.OFFLINE,
                user=user,
                filters=each["filters"],
                qos=each["qos"],
                acl=Verdict.UNKNOWN if user is None else verdict,
                durable=True,
                no_local=each["no_local"],
            )
            for each, user, verdict in zip(found, users, rights, strict=True)
        ]

    async def _rights(self, topic: str, clients: Sequence[Mapping[str, Any]]) -> list[Verdict]:
        body = {"topic": topic, "clients": list(clients)}
        for edge in await self._nodes.edges():
            try:
                status, answer = await edge.ask_json("POST", "/rights", body=body)
            except NodeError:
                continue  # it is named already, as one that did not say who is connected
            if status < 400:
                return [Verdict(right) for right in answer["rights"]]
        return [Verdict.UNKNOWN] * len(clients)

    async def _of_a_router(
        self, path: str, params: Mapping[str, str | int], missing: list[str]
    ) -> dict[str, Any] | None:
        """Return the answer of the first router that has one; None if none has, or for 404."""
        problems = []
        for router in await self._routers():
            try:
                status, answer = await router.ask_json("GET", path, params=params)
            except NodeError as error:
                problems.append(f"{router.name}: {error}")
                continue
            if status < 400:
                return answer
            if status == 404 and "name" in params:
                return None
            problems.append(f"{router.name}: {answer.get('error', status)}")
        missing += problems or ["routers: no address found"]
        return None

    async def _routers(self) -> Sequence[NodeClient]:
        """Return the routers; the edges, where each has one in its process."""
        return await self._nodes.routers() or await self._nodes.edges()

    # Shared subscriptions

    async def groups(self, after: str, limit: int) -> SharedGroupPage:
        """Return groups of shared subscriptions, in the order of their names."""
        page = SharedGroupPage(items=[])
        params: dict[str, str | int] = {"after": after, "limit": limit}
        answer = await self._of_a_router("/shared-groups", params, page.missing)
        if answer is not None:
            page.items += [
                SharedGroup(
                    name=each["name"],
                    share_name=each["share_name"],
                    filter=each["filter"],
                    members=each["members"],
                    connected=each["connected"],
                )
                for each in answer["groups"]
            ]
            if answer["more"]:
                page.next = page.items[-1].name
        return page

    async def group(self, name: str) -> SharedGroupDetail:
        """Return a group with its members, and what each has unacknowledged."""
        missing: list[str] = []
        answer = await self._of_a_router("/shared-group", {"name": name}, missing)
        if answer is None:
            if missing:
                return SharedGroupDetail(
                    name=name, share_name="", filter="", members=[], missing=missing
                )
            raise not_found(f"no group of shared subscriptions is named {name}")
        found = answer["list"][:_MOST_MEMBERS]
        places = asyncio.Semaphore(_AT_ONCE)
        members = await asyncio.gather(
            *(self._member(name, each, places, missing) for each in found)
        )
        return SharedGroupDetail(
            name=answer["name"],
            share_name=answer["share_name"],
            filter=answer["filter"],
            members=list(members),
            more=answer["more"] or len(answer["list"]) > _MOST_MEMBERS,
            missing=list(dict.fromkeys(missing)),
        )

    async def _member(
        self, name: str, found: Mapping[str, Any], places: asyncio.Semaphore, missing: list[str]
    ) -> GroupMember:
        count, is_least, edge = None, False, None
        async with places:
            if found["durable"]:
                key = session_key(found["mount_point"], found["client_id"])
                try:
                    sessions = SessionInspection(self._store.access)
                    count, is_least = await sessions.unacknowledged(key, found["incarnation"], name)
                except StoreUnavailable as error:
                    missing.append(f"store: {error}")
            if found["connected"]:
                in_window, edge = await self._in_window(name, found, missing)
                count = in_window if count is None else count
        return GroupMember(
            client_id=found["client_id"],
            mount_point=found["mount_point"],
            state=ClientState.CONNECTED if found["connected"] else ClientState.OFFLINE,
            durable=found["durable"],
            qos=found["qos"],
            edge=edge,
            unacknowledged=count,
            is_least=is_least,
        )

    async def _in_window(
        self, name: str, found: Mapping[str, Any], missing: list[str]
    ) -> tuple[int | None, str | None]:
        """Return how many messages of a group are in the window of a member, and its edge."""
        answers = await self._nodes.ask_edges(
            "GET",
            f"/clients/{quote(found['client_id'], safe='')}",
            params={"mount_point": found["mount_point"]},
        )
        missing += answers.missing
        if not answers.good:
            return None, None
        window = answers.good[0].body["window"]
        names = {name, f"$share/{name}"}
        return sum(each["group"] in names for each in window), answers.good[0].node.name


def _connected(edge: str, found: Mapping[str, Any]) -> Receiver:
    return Receiver(
        client_id=found["client_id"],
        mount_point=found["mount_point"],
        state=ClientState.CONNECTED,
        user=found["username"],
        filters=found["filters"],
        qos=found["qos"],
        acl=Verdict(found["acl"]),
        edge=edge,
        durable=found["durable"],
        no_local=found["no_local"],
    )


def _group(found: Mapping[str, Any]) -> ReceiverGroup:
    return ReceiverGroup(
        share_name=found["share_name"],
        filter=found["filter"],
        members=found["members"],
        connected=found["connected"],
    )
