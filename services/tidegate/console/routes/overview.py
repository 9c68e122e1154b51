"""The overview: is the broker well, and if not, what to do first."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Sequence
from typing import Literal

from fastapi import APIRouter

from tidegate.console import findings as sentences
from tidegate.console.access import VIEWER
from tidegate.console.models.overview import Finding, NodeSummary, Overview, Totals
from tidegate.console.nodes.pool import Answer
from tidegate.console.parts import Parts, PartsOf
from tidegate.console.resource import read_resource

router = APIRouter(tags=["overview"])

_PER_SECOND = (
    "messages_in_qos0", "messages_in_qos1", "messages_in_qos2", "messages_out_qos0",
    "messages_out_qos1", "messages_out_qos2", "bytes_in", "bytes_out", "delivered", "dropped",
    "refused", "connects", "store_latency_ms", "store_commands", "store_errors",
)  # fmt: skip


@router.get("/overview", dependencies=[VIEWER])
async def overview(parts: PartsOf) -> Overview:
    """Return whether the broker is well, and the numbers that say so."""
    status, listeners = await asyncio.gather(
        parts.nodes.ask_all("GET", "/status"), parts.nodes.ask_edges("GET", "/listeners")
    )
    resource = read_resource(parts.config().console.conditions_file)
    dropped, refused = parts.figures.recent()
    last = parts.figures.last
    values = last.values if last is not None else {}
    found = [
        *sentences.of_missing(status.missing),
        *(each for answer in status.good for each in _of_status(answer)),
        *sentences.of_versions(
            {answer.node.name: str(answer.body.get("version", "")) for answer in status.good}
        ),
        *_of_store(parts),
        *(
            each
            for answer in listeners.good
            for each in sentences.of_listeners(answer.node.name, answer.body["listeners"])
        ),
        *sentences.of_counts(dropped, refused),
        *(sentences.of_resource(resource, time.time()) if resource is not None else ()),
    ]
    findings = sentences.sorted_findings(found)
    return Overview(
        state=_state(status.good, findings),
        findings=findings,
        totals=_totals(status.good, values),
        rates={name: values[name] for name in _PER_SECOND if name in values},
        dropped=dict(dropped),
        refused=dict(refused),
        nodes=[_summary(answer) for answer in status.good],
        resource=resource,
        store_reachable=not parts.store.problem and _store_answers(status.good),
        missing=status.missing,
    )


def _of_status(answer: Answer) -> list[Finding]:
    return list(sentences.of_status(answer.node.name, answer.body))


def _of_store(parts: Parts) -> list[Finding]:
    if not parts.store.problem:
        return parts.store_health.findings
    return [
        Finding(
            area="store",
            level="problem",
            text=f"the store does not answer the console: {parts.store.problem}",
            change="see the server, or correct store.url: without it no client can connect, and "
            "durable messages wait",
        )
    ]


def _state(
    answers: Sequence[Answer], findings: Sequence[Finding]
) -> Literal["ok", "degraded", "down"]:
    edges = [answer for answer in answers if "clients" in answer.body]
    if not any(answer.body.get("ready") for answer in edges):
        return "down"
    return "degraded" if any(each.level == "problem" for each in findings) else "ok"


def _store_answers(answers: Sequence[Answer]) -> bool:
    links = [answer.body.get("link") or {} for answer in answers]
    said = [link["store_reachable"] for link in links if "store_reachable" in link]
    return any(said) if said else True


def _totals(answers: Sequence[Answer], values: dict[str, float]) -> Totals | None:
    if not answers:
        return None
    bodies = [answer.body for answer in answers]
    return Totals(
        connections=sum(int(body.get("clients") or 0) for body in bodies),
        sessions=max((int(body.get("sessions") or 0) for body in bodies), default=0),
        subscriptions=int(values.get("subscriptions", 0)),
        retained=max((int(body.get("retained") or 0) for body in bodies), default=0),
        queued=int(values.get("queued", 0)),
    )


def _summary(answer: Answer) -> NodeSummary:
    body = answer.body
    return NodeSummary(
        name=answer.node.name,
        role=str(body.get("role", "")),
        ready=bool(body.get("ready")),
        reason=str(body.get("reason", "")),
        version=str(body.get("version", "")),
        clients=body.get("clients"),
        draining=bool((body.get("drain") or {}).get("draining")),
    )
