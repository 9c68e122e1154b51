"""Brings the cluster to what one ``MqttBroker`` says: the same steps whatever has happened.

Reads what is there, asks the pure parts what there should be, writes the difference, and says how
it went. Called by the queue, with a key; returns when it wants to be called again.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from typing import Any, Final, Protocol

from tidegate_operator import conditions, live_state, names, old_store
from tidegate_operator.kube.interface import Cluster, KubeError
from tidegate_operator.kube.write_backoff import WriteBackoff
from tidegate_operator.plan import ObjectRef, Plan, belongs_to, is_left_over, plan
from tidegate_operator.pods import config_state
from tidegate_operator.pods.config_state import Answer, Wanted
from tidegate_operator.pods.config_tracker import COUNT_S, PodConfigTracker
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
from tidegate_operator.render.broker_config import refused
from tidegate_operator.render.inputs import decoded
from tidegate_operator.secrets.certificates import CertificateProblem, Facts, check_pair
from tidegate_operator.secrets.owned_secrets import Existing, OwnedSecrets, pair_in, renewed
from tidegate_operator.secrets.reference_index import Referrers
from tidegate_operator.secrets.references import Collected, Contents, ObjectKey, collect, references
from tidegate_operator.spec.broker import MqttBrokerSpec
from tidegate_operator.spec.problems import SpecError, parse
from tidegate_operator.spec.status import Reason

log = logging.getLogger(__name__)

#: How soon to look again while pods come and go, and while something is wrong. What changes in the
#: cluster is told by watches; this is for the rest. Where nothing changes, it is a tenth of the
#: time for which that has been so: many brokers that never become ready must not starve others.
SOON_S: Final = 2.0
WRONG_S: Final = 10.0
_OF_QUIET: Final = 0.1
#: Kinds with nothing in them that a spec could make unacceptable.
_PLAIN: Final = frozenset({"Secret", "ConfigMap", "ServiceAccount"})
#: Conditions whose changes are worth an event.
_SAID: Final = frozenset({"Ready", "Degraded", "CertificatesReady"})

#: The event that says that edges let clients go.
REBALANCING: Final = "Rebalancing"


class Admin(Protocol):
    """What is asked of pods themselves. Nothing is raised: pods may be gone."""

    async def ask(self, pods: Iterable[live_state.Pod], token: bytes) -> dict[str, Answer]:
        """Return what pods say, by key; who is not in it could not be asked in time."""

    async def shed(self, pod: live_state.Pod, token: bytes, connections: int) -> int | None:
        """Tell an edge to let clients go; return how many will, None if it does not."""


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
    is_left_over: bool = False
    apply_error: str = ""
    is_refused_late: bool = False
    applied: int = 0
    deleted: int = 0
    #: In how many seconds what is not written for now may be written; 0: nothing is held back.
    held_s: float = 0.0
    #: Whether the bundled store is kept for routers that may still use it.
    keeps_store: bool = False


@dataclass(slots=True)
class _Wanted:
    """What there should be, as far as that is known."""

    collected: Collected
    owned_secrets: OwnedSecrets
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
        admin: Admin,
        resync_s: float = 60.0,
        referrers: Referrers | None = None,
    ) -> None:
        """``referrers`` learns who has to be looked at when an object of somebody else changes."""
        self._cluster = cluster
        self._image = image
        self._operator_namespace = operator_namespace
        self._now = now
        self._admin = admin
        self._resync_s = resync_s
        #: By broker: what its pods have said.
        self._roll_calls: dict[tuple[str, str], PodConfigTracker] = {}
        self._referrers = referrers or Referrers()
        self._write_backoff = WriteBackoff()

    async def reconcile(self, namespace: str, name: str) -> Outcome:
        """Look at one broker. Raises KubeUnavailable, and KubeError if reading is refused."""
        cluster = self._cluster
        body = await cluster.broker(namespace, name)
        if body is None or "deletionTimestamp" in body["metadata"]:
            # What it has made is owned by it, and goes with it.
            self._roll_calls.pop((namespace, name), None)
            self._referrers.forget((namespace, name))
            self._write_backoff.forget(namespace, name)
            return Outcome(None)
        now = self._now()
        there = {ObjectRef.of(one): one for one in await cluster.children(namespace, name)}
        pods = live_state.pods(await cluster.pods(namespace, name), now)
        owner = Owner(name, namespace, body["metadata"]["uid"])
        spec, problems = _parsed(owner, body)
        wanted = await self._wanted(owner, spec, there, pods, now)
        result = _Result()
        if spec is None or not spec.paused:
            result = await self._carry_out(owner, wanted, there, pods, now)
        call = self._roll_calls.setdefault((namespace, name), PodConfigTracker())
        standard = config_state.wanted(name, _template_hashes(name, there), there)
        edges = live_state.workload(_child(there, "Deployment", name, "edge"))
        call.look(pods, standard, edges, now)
        was_asked = await self._call(call, pods, standard, _token(name, there), now)
        situation = self._situation(body, spec, problems, wanted, result, there, pods)
        situation = replace(
            situation,
            lagging=call.lagging(pods, standard),
            stubborn=call.stubborn(pods, now),
            connections=call.connections,
        )
        status = conditions.status(situation, body.get("status"), now)
        if status != body.get("status"):
            await cluster.set_status(namespace, name, status)
            await self._say_what_changed(body, status)
        if spec is None or not spec.paused:
            await self._tell(namespace, call, pods, standard, now)
        if spec is not None and not spec.paused and was_asked:
            await self._rebalance(body, spec, call, situation, _token(name, there), now)
        again_s = self._again_s(status, wanted, call, spec, now)
        if result.keeps_store:
            again_s = min(again_s, max(SOON_S, call.quiet_s(now) * _OF_QUIET))
        if result.held_s:
            again_s = min(again_s, result.held_s)
        return Outcome(again_s, result.applied, result.deleted)

    # What there should be

    async def _wanted(
        self,
        owner: Owner,
        spec: MqttBrokerSpec | None,
        there: Mapping[ObjectRef, Manifest],
        pods: Sequence[live_state.Pod],
        now: datetime,
    ) -> _Wanted:
        name, namespace = owner.name, owner.namespace
        existing = _existing(name, there)
        balanced = live_state.balanced_addresses(_client_service(there, name))
        owned_secrets = renewed(name, namespace, spec, existing, now, balanced)
        kept = upkeep(owner, owned_secrets, existing)
        if spec is None:
            return _Wanted(Collected(), owned_secrets, kept, is_all=False)
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
        old = old_store.router_files(broker, existing, there, pods)
        inputs = Inputs(broker, settings, owned_secrets, collected, _shortest_grace_s(pods), old)
        if not collected.is_complete:
            # Of two with one name the last counts: what is there is kept, and kept alive.
            return _Wanted(collected, owned_secrets, [*prerequisites(inputs), *kept], is_all=False)
        return _Wanted(collected, owned_secrets, render(inputs), is_all=True)

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
        self,
        owner: Owner,
        wanted: _Wanted,
        there: dict[ObjectRef, Manifest],
        pods: Sequence[live_state.Pod],
        now: datetime,
    ) -> _Result:
        """Write what is different; ``there`` is brought up to date."""
        await self._find_foreign(owner, wanted.manifests, there)
        found = plan(wanted.manifests, there.values(), owner.uid, delete=wanted.is_all)
        if found.foreign:
            in_way = tuple(ref for ref in found.foreign if not is_left_over(there[ref], owner.name))
            return _Result(in_way or found.foreign, is_left_over=not in_way)
        waits = {ObjectRef.of(one): self._write_backoff.wait_s(one, now) for one in found.apply}
        due = tuple(one for one in found.apply if not waits[ObjectRef.of(one)])
        found = replace(found, apply=due)
        result = _Result(held_s=min(filter(None, waits.values()), default=0.0))
        try:
            is_new = not any(belongs_to(one, owner.uid) for one in there.values())
            await self._try_out(found, is_new=is_new)
            for manifest in found.apply:
                ref = ObjectRef.of(manifest)
                there[ref] = await self._cluster.apply(manifest)
                result.applied += 1
                if self._write_backoff.wrote(manifest, now):
                    fields = {"namespace": owner.namespace, "object": str(ref)}
                    log.warning("somebody else changes it again and again", extra=fields)
            kept = old_store.in_use(owner.name, found, wanted.manifests, there, pods)
            result.keeps_store = bool(kept)
            for ref in (one for one in found.delete if one not in kept):
                uid = there[ref]["metadata"]["uid"]
                await self._cluster.delete(ref, owner.namespace, uid)
                del there[ref]
                result.deleted += 1
        except _ApplyRefused as refused:
            result.apply_error = str(refused)
        except KubeError as error:
            if not error.is_about_the_object:
                raise
            result.apply_error = f"{ref}: {error}"
            result.is_refused_late = len(found.apply) + len(found.delete) > 1
        for change in wanted.owned_secrets.changes if result.applied else ():
            fields = {"namespace": owner.namespace, "broker": owner.name, "what": change}
            log.info("made anew", extra=fields)
        return result

    async def _find_foreign(
        self, owner: Owner, manifests: Sequence[Manifest], there: dict[ObjectRef, Manifest]
    ) -> None:
        """Look for objects of the names that are needed, and that do not have our labels."""
        missing = [ref for ref in map(ObjectRef.of, manifests) if ref not in there]
        reads = (self._cluster.read(ref, owner.namespace) for ref in missing)
        found = zip(missing, await asyncio.gather(*reads), strict=True)
        there |= {ref: one for ref, one in found if one is not None}

    async def _try_out(self, found: Plan, *, is_new: bool) -> None:
        """Ask whether everything would be accepted, so that a bad spec changes nothing at all.

        What is written alone is its own trial. Of a broker of which there is nothing yet, only
        what people write into is tried: an object more or less harms nobody then.
        """
        if len(found.apply) == 1 and not found.delete:
            return
        for manifest in found.apply:
            if is_new and manifest["kind"] in _PLAIN:
                continue
            try:
                await self._cluster.apply(manifest, dry_run=True)
            except KubeError as error:
                if error.is_about_dry_runs:
                    continue
                if not error.is_about_the_object:
                    raise
                raise _ApplyRefused(f"{ObjectRef.of(manifest)}: {error}") from error

    # Pods

    async def _call(
        self,
        call: PodConfigTracker,
        pods: Sequence[live_state.Pod],
        standard: Mapping[str, Wanted],
        token: bytes,
        now: datetime,
    ) -> bool:
        """Ask pods what they use, if it is time; return whether they were asked."""
        asked = call.whom_to_ask(pods, standard, now)
        if asked:
            call.take(await self._admin.ask(asked, token), pods, standard, now)
        return bool(asked)

    async def _tell(
        self,
        namespace: str,
        call: PodConfigTracker,
        pods: Sequence[live_state.Pod],
        standard: Mapping[str, Wanted],
        now: datetime,
    ) -> None:
        """Have kubelets look now at what pods mount; without it they do so within a minute."""
        for pod, digest in call.whom_to_tell(pods, standard, now):
            try:
                await self._cluster.annotate_pod(namespace, pod.name, pod.uid, digest)
            except KubeError as error:
                # The pod has gone, or the operator may not: it is quicker with it, no more.
                log.info("a pod was not told", extra={"pod": pod.name, "reason": str(error)})
            call.told(pod, digest)

    async def _rebalance(
        self,
        body: Manifest,
        spec: MqttBrokerSpec,
        call: PodConfigTracker,
        situation: conditions.Situation,
        token: bytes,
        now: datetime,
    ) -> None:
        """Tell edges that have far too many clients to let some go."""
        settings = spec.edge.rebalance
        rounds = call.unbalanced(settings, spec.edge.drain.rate, situation.pods, now)
        told = []
        for pod, count, mean in rounds:
            found = await self._admin.shed(pod, token, count)
            if found:
                told.append(f"{pod.name} lets {found} clients go (the mean is {mean:.0f})")
        if told:
            text = f"Evening out connections: {'; '.join(told)}."
            await self._cluster.say(body, "Normal", REBALANCING, text)

    # Saying how it went

    def _situation(
        self,
        body: Manifest,
        spec: MqttBrokerSpec | None,
        problems: Sequence[str],
        wanted: _Wanted,
        result: _Result,
        there: Mapping[ObjectRef, Manifest],
        pods: Sequence[live_state.Pod],
    ) -> conditions.Situation:
        name, namespace = body["metadata"]["name"], body["metadata"]["namespace"]
        uid = body["metadata"]["uid"]
        there = {ref: one for ref, one in there.items() if belongs_to(one, uid)}
        edge, router = (_child(there, "Deployment", name, one) for one in ("edge", "router"))
        redis = _child(there, "StatefulSet", name, "redis")
        is_bundled = redis is not None if spec is None else spec.redis.own is not None
        service = _client_service(there, name)
        listeners = [] if spec is None else spec.listeners
        return conditions.Situation(
            name=name,
            generation=body["metadata"].get("generation", 0),
            spec=spec,
            spec_problems=problems,
            reference_problems=wanted.collected.problems,
            foreign=result.foreign,
            is_left_over=result.is_left_over,
            apply_error=result.apply_error,
            is_refused_late=result.is_refused_late,
            edges=live_state.workload(edge),
            routers=live_state.workload(router),
            redis=live_state.workload(redis) if is_bundled else None,
            keeps_store=spec is not None and old_store.is_kept(spec, redis),
            pods=pods,
            addresses=live_state.addresses(service, namespace, listeners),
            certificates=_certificates(name, wanted, there),
        )

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

    def _again_s(
        self,
        status: Mapping[str, Any],
        wanted: _Wanted,
        call: PodConfigTracker,
        spec: MqttBrokerSpec | None,
        now: datetime,
    ) -> float:
        found = {one["type"]: one for one in status["conditions"]}
        is_applying = found["ConfigApplied"]["reason"] == Reason.APPLYING
        patience_s = call.quiet_s(now) * _OF_QUIET
        if found["Progressing"]["status"] == "True" or (is_applying and call.is_fresh(now)):
            return max(SOON_S, min(patience_s, self._resync_s))
        wrong = found["Degraded"]["status"] == "True" or found["Ready"]["status"] != "True"
        soon_s = max(WRONG_S, patience_s) if wrong or is_applying else self._resync_s
        again_s = min(soon_s, self._resync_s)
        if spec is not None and spec.edge.rebalance.enabled:
            again_s = min(again_s, COUNT_S)
        due_s = (wanted.owned_secrets.next_change - now).total_seconds()
        return max(1.0, min(again_s, due_s))


class _ApplyRefused(Exception):
    """The API server would not accept an object; the message names it."""


def _parsed(owner: Owner, body: Manifest) -> tuple[MqttBrokerSpec | None, list[str]]:
    try:
        spec = parse(owner.name, body.get("spec") or {})
    except SpecError as error:
        return None, error.problems
    problems = refused(Broker(owner.name, owner.namespace, owner.uid, spec))
    return (None, problems) if problems else (spec, [])


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


def _template_hashes(name: str, there: Mapping[ObjectRef, Manifest]) -> dict[str, str]:
    """Return the restart hashes of the workloads' templates, by component."""
    return {
        component: live_state.template_hash(_child(there, "Deployment", name, component))
        for component in config_state.COMPONENTS
    }


def _token(name: str, there: Mapping[ObjectRef, Manifest]) -> bytes:
    """Return the token of the pods' admin API."""
    secret = there.get(ObjectRef("v1", "Secret", names.admin_secret(name)))
    return decoded(secret).get("token", b"")


def _shortest_grace_s(pods: Iterable[live_state.Pod]) -> int | None:
    """Return the shortest grace period of edges, those that end included."""
    return min(
        (pod.grace_s for pod in pods if pod.component == "edge" and pod.grace_s), default=None
    )


def _client_service(there: Mapping[ObjectRef, Manifest], name: str) -> Manifest | None:
    return there.get(ObjectRef("v1", "Service", names.client_service(name)))


def _certificates(
    name: str, wanted: _Wanted, there: Mapping[ObjectRef, Manifest]
) -> dict[str, list[Facts]]:
    """Return what all listeners' certificates say; of self-signed ones, those that pods have: what
    is due is not issued while a broker is paused, or nothing is written."""
    found = {listener: list(facts) for listener, facts in wanted.collected.certificates.items()}
    edge = decoded(there.get(ObjectRef("v1", "Secret", names.workload(name, "edge"))))
    for listener in wanted.owned_secrets.listener_pairs:
        pair = pair_in(edge, f"listener.{listener}")
        with contextlib.suppress(CertificateProblem):
            if pair is not None:
                found.setdefault(listener, []).insert(0, check_pair(pair.certificate, pair.key))
    return found
