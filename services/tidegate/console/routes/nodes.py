"""Nodes: what they are doing, drain and shed; their listeners, and the configuration in force."""

from __future__ import annotations

from functools import cache
from http import HTTPStatus
from typing import Annotated, Any

from fastapi import APIRouter, Path, Request

from tidegate.console.access import OPERATOR, VIEWER
from tidegate.console.errors import ApiError, Reason, conflict, not_found
from tidegate.console.models.nodes import (
    Drain,
    Listener,
    ListenerPage,
    Node,
    NodePage,
    Setting,
    Settings,
    Shed,
    ShedRequest,
)
from tidegate.console.nodes.client import NodeClient, NodeError
from tidegate.console.nodes.pool import Answer
from tidegate.console.parts import Parts, PartsOf
from tidegate.runtime.config.documentation import descriptions
from tidegate.runtime.config.model import Config
from tidegate.runtime.config.report import settings_of

router = APIRouter(tags=["nodes"])

NodeName = Annotated[str, Path(min_length=1, max_length=253, description="Name of the node.")]


@router.get("/nodes", dependencies=[VIEWER])
async def nodes(parts: PartsOf) -> NodePage:
    """List edges and routers with what they say of themselves."""
    found = await parts.nodes.ask_all("GET", "/status")
    return NodePage(items=[node_of(parts, answer) for answer in found.good], missing=found.missing)


@router.get("/nodes/{name}", dependencies=[VIEWER])
async def node(name: NodeName, parts: PartsOf) -> Node:
    """Return one node."""
    status, body = await _ask(await _named(parts, name), "GET", "/status")
    found = await _named(parts, name)
    return node_of(parts, Answer(found, status, body))


@router.post("/nodes/{name}/drain", status_code=HTTPStatus.ACCEPTED, dependencies=[OPERATOR])
async def drain_node(request: Request, name: NodeName, parts: PartsOf) -> Drain:
    """Disconnect the clients of an edge at the configured rate; they connect elsewhere.

    It is not ready from then on, and stays so until it is restarted. Repeated, it returns how far
    it is, as `drain` of the node does.
    """
    _, body = await _ask(await _named(parts, name), "POST", "/drain")
    await parts.audit.note(request, "drain", f"node {name}")
    return Drain(**body)


@router.post("/nodes/{name}/shed", status_code=HTTPStatus.ACCEPTED, dependencies=[OPERATOR])
async def shed_node(request: Request, name: NodeName, body: ShedRequest, parts: PartsOf) -> Shed:
    """Disconnect some clients of an edge, which stays ready."""
    _, answer = await _ask(
        await _named(parts, name), "POST", "/shed", params={"connections": body.connections}
    )
    await parts.audit.note(
        request, "shed", f"node {name}", detail={"connections": body.connections}
    )
    return Shed(shedding=int(answer["shedding"]))


@router.get("/listeners", dependencies=[VIEWER])
async def listeners(parts: PartsOf) -> ListenerPage:
    """List the listeners of all edges, with their certificates."""
    found = await parts.nodes.ask_edges("GET", "/listeners")
    return ListenerPage(
        items=[
            Listener(node=answer.node.name, **listener)
            for answer in found.good
            for listener in answer.body["listeners"]
        ],
        missing=found.missing,
    )


@router.get("/settings", dependencies=[VIEWER])
async def settings(parts: PartsOf) -> Settings:
    """List the configuration in force, and what waits for a restart."""
    found = await parts.nodes.ask_all("GET", "/settings")
    by_node: dict[str, dict[str, Any]] = {}
    restart_needed: dict[str, list[str]] = {}
    problems: dict[str, str] = {}
    for answer in found.good:
        name, configuration = answer.node.name, answer.body["configuration"]
        by_node[name] = answer.body["settings"]
        if configuration["restart_needed"]:
            restart_needed[name] = configuration["restart_needed"]
        if configuration["problem"]:
            problems[name] = configuration["problem"]
    return Settings(
        items=_settings(by_node),
        restart_needed=restart_needed,
        problems=problems,
        missing=found.missing,
    )


def _settings(by_node: dict[str, dict[str, Any]]) -> list[Setting]:
    keys = dict.fromkeys(key for values in by_node.values() for key in values)
    defaults, texts = _defaults(), _descriptions()
    found = []
    for key in keys:
        values = {name: each[key] for name, each in by_node.items() if key in each}
        common = max(values.values(), key=list(values.values()).count)
        differs = {name: value for name, value in values.items() if value != common}
        found.append(
            Setting(
                key=key,
                value=common,
                default=defaults.get(key),
                is_default=not differs and key in defaults and common == defaults[key],
                description=texts.get(key, ""),
                differs=differs,
            )
        )
    return found


@cache
def _defaults() -> dict[str, Any]:
    return settings_of(Config())


@cache
def _descriptions() -> dict[str, str]:
    return descriptions()


def node_of(parts: Parts, answer: Answer) -> Node:
    """Shape the status of a node."""
    status = answer.body
    configuration, clock = status.get("configuration", {}), status.get("clock", {})
    return Node(
        name=str(status.get("name", answer.node.name)),
        role=str(status.get("role", "")),
        address=answer.node.address,
        version=str(status.get("version", "")),
        build=str(status.get("build", "")),
        ready=bool(status.get("ready")),
        reason=str(status.get("reason", "")),
        uptime_s=float(status.get("uptime_s", 0)),
        clients=status.get("clients"),
        drain=Drain(**status["drain"]) if status.get("drain") else None,
        shedding=int(status.get("shedding", 0)),
        restart_needed=configuration.get("restart_needed", []),
        configuration_problem=str(configuration.get("problem", "")),
        clock_offset_s=float(clock.get("offset_s", 0)),
        clock_problem=str(clock.get("problem", "")),
        load=parts.figures.loads.get(answer.node.address, {}),
        status=status,
    )


async def _named(parts: Parts, name: str) -> NodeClient:
    found = await parts.nodes.named(name)
    if found is None:
        raise not_found(f"no node says that its name is {name}")
    return found


async def _ask(
    node: NodeClient, method: str, path: str, params: dict[str, str | int] | None = None
) -> tuple[int, dict[str, Any]]:
    """Send a request to one node. Raises ApiError with what it says."""
    try:
        status, body = await node.ask_json(method, path, params=params)
    except NodeError as error:
        raise ApiError(
            HTTPStatus.SERVICE_UNAVAILABLE, Reason.NODE_UNAVAILABLE, f"{node.name}: {error}"
        ) from None
    if status == HTTPStatus.NOT_FOUND:
        raise conflict(f"{node.name} has no clients: only edges can do that")
    if status >= HTTPStatus.BAD_REQUEST:
        raise conflict(f"{node.name}: {body.get('error', status)}")
    return status, body
