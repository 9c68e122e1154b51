"""Brings the cluster to what one ``MqttBroker`` says: the same steps whatever has happened.

Reads what is there, asks the pure parts what there should be, writes the difference, and says how
it went. Called by the queue, with a key; returns when it wants to be called again.
"""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Final

from tidegate_operator import conditions, names, observed
from tidegate_operator.certificates import Facts
from tidegate_operator.certificates import facts as certificate_facts
from tidegate_operator.keyring import Existing, Keyring, renewed
from tidegate_operator.kube import Cluster, KubeError
from tidegate_operator.plan import ObjectRef, Plan, plan
from tidegate_operator.problems import SpecError, parse
from tidegate_operator.references import Collected, Contents, ObjectKey, collect, references
from tidegate_operator.referrers import Referrers
from tidegate_operator.render import (
    Broker,
    Inputs,
    Manifest,
    Owner,
    Settings,
    prerequisites,
    render,
    upkeep,
)
from tidegate_operator.render.inputs import decoded
from tidegate_operator.spec import MqttBrokerSpec

log = logging.getLogger(__name__)

#: How soon to look again while pods come and go, and while something is wrong.
SOON_S: Final = 2.0
WRONG_S: Final = 10.0

#: How often clients are counted at most.
COUNT_S: Final = 30.0
#: Conditions whose changes are worth an event.
_SAID: Final = frozenset({"Ready", "Degraded", "CertificatesReady"})

#: Asks the edges for the number of their clients.
CountConnections = Callable[[Sequence[observed.Pod], bytes], Awaitable[int | None]]


@dataclass(slots=True, frozen=True)
class Outcome:
    """``again_s``: when to look again, None if there is nothing to look at any more."""

    again_s: float | None
    applied: int = 0
    deleted: int = 0


@dataclass(slots=True)
class _Result:
    """What carrying out came to."""

    foreign: tuple[ObjectRef, ...] = ()
    apply_error: str = ""
    applied: int = 0
    deleted: int = 0


@dataclass(slots=True)
class _Wanted:
    """What there should be, as far as that is known."""

    collected: Collected
    keyring: Keyring
    manifests: list[Manifest]
    #: Whether that is everything: only then is anything else not wanted any more.
    is_all: bool


class Reconciler:
    """See the module's docstring. Different brokers may be reconciled at the same time."""

    def __init__(
        self,
        cluster: Cluster,
        image: str,
        operator_namespace: str,
        now: Callable[[], datetime],
        count_connections: CountConnections,
        resync_s: float = 60.0,
        referrers: Referrers | None = None,
    ) -> None:
        """``referrers`` learns who has to be looked at when an object of somebody else changes."""
        self._cluster = cluster
        self._image = image
        self._operator_namespace = operator_namespace
        self._now = now
        self._count_connections = count_connections
        self._resync_s = resync_s
        #: By broker: when its clients were counted last, and what came of it.
        self._counts: dict[tuple[str, str], tuple[datetime, int | None]] = {}
        self._referrers = referrers or Referrers()

    async def reconcile(self, namespace: str, name: str) -> Outcome:
        """Look at one broker. Raises KubeUnavailable, and KubeError if reading is refused."""
        cluster = self._cluster
        body = await cluster.broker(namespace, name)
        if body is None or "deletionTimestamp" in body["metadata"]:
            # What it has made is owned by it, and goes with it.
            self._counts.pop((namespace, name), None)
            self._referrers.forget((namespace, name))
            return Outcome(None)
        now = self._now()
        there = {ObjectRef.of(one): one for one in await cluster.children(namespace, name)}
        spec, problems = _parsed(name, body)
        owner = Owner(name, namespace, body["metadata"]["uid"])
        wanted = await self._wanted(owner, spec, there, now)
        result = _Result()
        if spec is None or not spec.paused:
            result = await self._carry_out(owner, wanted, there)
        pods = observed.pods(await cluster.pods(namespace, name))
        situation = await self._situation(body, spec, problems, wanted, result, there, pods)
        status = conditions.status(situation, body.get("status"), now)
        if status != body.get("status"):
            await cluster.set_status(namespace, name, status)
            await self._say_what_changed(body, status)
        again_s = self._again_s(status, wanted, now)
        return Outcome(again_s, result.applied, result.deleted)

    # What there should be

    async def _wanted(
        self,
        owner: Owner,
        spec: MqttBrokerSpec | None,
        there: Mapping[ObjectRef, Manifest],
        now: datetime,
    ) -> _Wanted:
        name, namespace = owner.name, owner.namespace
        existing = _existing(name, there)
        keyring = renewed(name, namespace, spec, existing, now)
        kept = upkeep(owner, keyring, existing)
        if spec is None:
            return _Wanted(Collected(), keyring, kept, is_all=False)
        broker = Broker(name, namespace, owner.uid, spec)
        kinds = await self._cluster.optional_kinds()
        collected = collect(
            name,
            spec,
            await self._contents(broker),
            {"edge": existing.edge, "router": existing.router},
            now,
            has_cert_manager="Certificate" in kinds,
        )
        settings = Settings(self._image, self._operator_namespace, kinds)
        inputs = Inputs(broker, settings, keyring, collected)
        if not collected.is_complete:
            # Of two with one name the last counts: what is there is kept, and kept alive.
            return _Wanted(collected, keyring, [*prerequisites(inputs), *kept], is_all=False)
        return _Wanted(collected, keyring, render(inputs), is_all=True)

    async def _contents(self, broker: Broker) -> Contents:
        """Read what the spec refers to."""
        keys = {one.object_key: None for one in references(broker.name, broker.spec)}
        # Before it is read: what changes after that is told to whoever refers to it.
        self._referrers.refers((broker.namespace, broker.name), keys)
        found: dict[ObjectKey, Mapping[str, bytes] | None] = {}
        for key in keys:
            one = await self._cluster.read(ObjectRef("v1", *key), broker.namespace)
            found[key] = None if one is None else decoded(one)
        return found

    # Writing

    async def _carry_out(
        self, owner: Owner, wanted: _Wanted, there: dict[ObjectRef, Manifest]
    ) -> _Result:
        """Write what is different; ``there`` is brought up to date."""
        await self._find_foreign(owner, wanted.manifests, there)
        found = plan(wanted.manifests, there.values(), owner.uid, delete=wanted.is_all)
        if found.foreign:
            return _Result(foreign=found.foreign)
        for change in wanted.keyring.changes if not found.is_empty else ():
            log.info("made anew", extra={"broker": owner.name, "what": change})
        result = _Result()
        try:
            await self._try_out(found)
            for manifest in found.apply:
                applied = await self._cluster.apply(manifest)
                there[ObjectRef.of(manifest)] = applied
                result.applied += 1
            for ref in found.delete:
                uid = there[ref]["metadata"]["uid"]
                await self._cluster.delete(ref, owner.namespace, uid)
                del there[ref]
                result.deleted += 1
        except _ApplyRefused as refused:
            result.apply_error = str(refused)
        except KubeError as error:
            if not error.is_about_the_object:
                raise
            result.apply_error = str(error)
        return result

    async def _find_foreign(
        self, owner: Owner, manifests: Sequence[Manifest], there: dict[ObjectRef, Manifest]
    ) -> None:
        """Look for objects of the names that are needed, and that do not have our labels."""
        for ref in map(ObjectRef.of, manifests):
            if ref not in there:
                found = await self._cluster.read(ref, owner.namespace)
                if found is not None:
                    there[ref] = found

    async def _try_out(self, found: Plan) -> None:
        """Ask whether everything would be accepted, so that a bad spec changes nothing at all."""
        for manifest in found.apply:
            try:
                await self._cluster.apply(manifest, dry_run=True)
            except KubeError as error:
                if error.is_about_dry_runs:
                    continue
                if not error.is_about_the_object:
                    raise
                raise _ApplyRefused(f"{ObjectRef.of(manifest)}: {error}") from error

    # Saying how it went

    async def _situation(
        self,
        body: Manifest,
        spec: MqttBrokerSpec | None,
        problems: Sequence[str],
        wanted: _Wanted,
        result: _Result,
        there: Mapping[ObjectRef, Manifest],
        pods: Sequence[observed.Pod],
    ) -> conditions.Situation:
        name, namespace = body["metadata"]["name"], body["metadata"]["namespace"]
        edge, router = (_child(there, "Deployment", name, one) for one in ("edge", "router"))
        redis = _child(there, "StatefulSet", name, "redis")
        is_bundled = redis is not None if spec is None else spec.redis.own is not None
        service = there.get(ObjectRef("v1", "Service", names.client_service(name)))
        token = _existing(name, there).admin.get("token", b"")
        listeners = [] if spec is None else spec.listeners
        return conditions.Situation(
            name=name,
            generation=body["metadata"].get("generation", 0),
            spec=spec,
            spec_problems=problems,
            reference_problems=wanted.collected.problems,
            foreign=result.foreign,
            apply_error=result.apply_error,
            edges=observed.workload(edge),
            routers=observed.workload(router),
            redis=observed.workload(redis) if is_bundled else None,
            pods=pods,
            wanted_hashes={
                "edge": observed.template_hash(edge),
                "router": observed.template_hash(router),
            },
            addresses=observed.addresses(service, namespace, listeners),
            certificates=_certificates(wanted),
            connections=await self._connections((namespace, name), pods, token),
        )

    async def _connections(
        self, key: tuple[str, str], pods: Sequence[observed.Pod], token: bytes
    ) -> int | None:
        """Count clients, but not too often: each new number is a write, which is seen as a change
        of the broker, which is a reason to come here again."""
        now = self._now()
        counted, count = self._counts.get(key, (None, None))
        if counted is None or (now - counted).total_seconds() >= COUNT_S:
            count = await self._count_connections(pods, token)
            self._counts[key] = (now, count)
        return count

    async def _say_what_changed(self, body: Manifest, status: Mapping[str, Any]) -> None:
        """Record an event for each condition that says something else than before."""
        old = {
            one["type"]: (one["status"], one["reason"])
            for one in (body.get("status") or {}).get("conditions") or []
        }
        for one in status["conditions"]:
            if old.get(one["type"]) == (one["status"], one["reason"]):
                continue
            if one["type"] in _SAID and one["status"] != "Unknown":
                bad = one["type"] == "Degraded" and one["status"] == "True"
                kind = "Warning" if bad else "Normal"
                await self._cluster.say(body, kind, one["reason"], one["message"])

    def _again_s(self, status: Mapping[str, Any], wanted: _Wanted, now: datetime) -> float:
        found = {one["type"]: one for one in status["conditions"]}
        if found["Progressing"]["status"] == "True" or found["ConfigApplied"]["reason"] == (
            conditions.Reason.APPLYING
        ):
            return SOON_S
        wrong = found["Degraded"]["status"] == "True" or found["Ready"]["status"] != "True"
        again_s = min(WRONG_S, self._resync_s) if wrong else self._resync_s
        due_s = (wanted.keyring.next_change - now).total_seconds()
        return max(1.0, min(again_s, due_s))


class _ApplyRefused(Exception):
    """The API server would not accept an object; the message names it."""


def _parsed(name: str, body: Manifest) -> tuple[MqttBrokerSpec | None, list[str]]:
    try:
        return parse(name, body.get("spec") or {}), []
    except SpecError as error:
        return None, error.problems


def _existing(name: str, there: Mapping[ObjectRef, Manifest]) -> Existing:
    """Return what the broker's own Secrets hold."""

    def data(secret: str) -> dict[str, bytes]:
        return decoded(there.get(ObjectRef("v1", "Secret", secret)))

    return Existing(
        authorities=data(names.authorities_secret(name)),
        edge=data(names.workload(name, "edge")),
        router=data(names.workload(name, "router")),
        admin=data(names.admin_secret(name)),
        redis=data(names.workload(name, "redis")),
    )


def _child(
    there: Mapping[ObjectRef, Manifest], kind: str, name: str, component: names.Component
) -> Manifest | None:
    return there.get(ObjectRef("apps/v1", kind, names.workload(name, component)))


def _certificates(wanted: _Wanted) -> dict[str, list[Facts]]:
    """Return what all listeners' certificates say, self-signed ones included."""
    found = {name: list(facts) for name, facts in wanted.collected.certificates.items()}
    for name, pair in wanted.keyring.listener_pairs.items():
        found.setdefault(name, []).insert(0, certificate_facts(pair.certificate))
    return found
