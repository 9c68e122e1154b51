"""Reconciles one ``MqttBroker``: the same steps, whatever has changed.

Read the live objects, decide what is desired (pure), write the difference, poll the pods, update
the status. Called by ``handlers`` for each key of the work queue; returns when to be called again.
What is desired is up to the pure modules.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime
from typing import Any, Final

from tidegate_operator import (
    condition_events,
    conditions,
    live_state,
    names,
    old_store,
    store_changes,
)
from tidegate_operator.backups import restore, schedule
from tidegate_operator.backups.controller import BackupIndex
from tidegate_operator.broker_state import BrokerState
from tidegate_operator.kube.interface import Cluster
from tidegate_operator.kube.store_pods import replace_servers
from tidegate_operator.kube.store_volume import Growth, grow
from tidegate_operator.kube.writer import ObjectWriter, WriteResult
from tidegate_operator.live_objects import LiveObjects
from tidegate_operator.missing_objects import missing_basics
from tidegate_operator.names import BrokerKey
from tidegate_operator.plan import (
    ROUTE_KINDS,
    ObjectRef,
    Plan,
    awaits_garbage_collection,
    belongs_to,
    plan,
)
from tidegate_operator.pods.config_state import desired_configs
from tidegate_operator.pods.config_tracker import COUNT_S
from tidegate_operator.pods.poller import AdminApi, PodPoller, PodSummary
from tidegate_operator.render import (
    Broker,
    Inputs,
    Manifest,
    Owner,
    Settings,
    network,
    prerequisites,
    render,
    upkeep,
)
from tidegate_operator.render.broker_config import runtime_problems
from tidegate_operator.render.inputs import decoded
from tidegate_operator.replicas.phase import Phase, phase
from tidegate_operator.replicas.servers import StoreServer, is_replicated, store_pods
from tidegate_operator.rollout.gate import Change, Decision, RolloutGate, Waiting
from tidegate_operator.secrets.certificates import CertificateInfo, CertificateProblem, check_pair
from tidegate_operator.secrets.owned_secrets import OwnedSecrets, pair_in, renew_secrets
from tidegate_operator.secrets.reference_index import ReferenceIndex
from tidegate_operator.secrets.references import (
    ACL_FILE,
    Contents,
    ObjectKey,
    ReferencedFiles,
    collect,
    references,
)
from tidegate_operator.spec.broker import MqttBrokerSpec
from tidegate_operator.spec.client_services import client_services
from tidegate_operator.spec.dropped import dropped_fields
from tidegate_operator.spec.problems import SpecError, parse
from tidegate_operator.spec.route_status import route_statuses
from tidegate_operator.spec.salvage import usable_part
from tidegate_operator.spec.status import SEEN_INTERVAL, STORE_REPLICATED, Reason, seen

log = logging.getLogger(__name__)

#: How soon to reconcile again during a rollout, and while something is wrong. Changes in the
#: cluster come by watches; this is for everything else. While nothing changes, the interval is a
#: tenth of that time, so that many brokers that never become ready do not starve others.
PROGRESSING_S: Final = 2.0
DEGRADED_S: Final = 10.0
_UNCHANGED_SHARE: Final = 0.1
#: Reason of the event when edges disconnect clients.
REBALANCING: Final = "Rebalancing"


@dataclass(slots=True, frozen=True)
class Outcome:
    """``requeue_after_s``: when to reconcile again, None for a deleted broker."""

    requeue_after_s: float | None
    applied: int = 0
    deleted: int = 0


@dataclass(slots=True, frozen=True)
class _Observed:
    """What was read from the cluster. ``live`` is kept up to date while objects are written."""

    body: Manifest
    owner: Owner
    #: None if the spec is invalid; ``spec_problems`` says why.
    spec: MqttBrokerSpec | None
    #: The spec, or what is usable of an invalid one: for Secrets and certificates only.
    usable: MqttBrokerSpec
    spec_problems: Sequence[str]
    live: LiveObjects
    pods: Sequence[live_state.Pod]
    now: datetime
    #: What the spec refers to, and the optional kinds of the cluster.
    contents: Contents = field(default_factory=dict)
    optional_kinds: Mapping[str, str] = field(default_factory=dict)
    #: Reports of a replicated store's servers, by the name of the pod; None for other stores.
    servers: Mapping[str, StoreServer] | None = None
    #: The restore that the broker begins with; None without one.
    restore: restore.RestoreState | None = None

    @property
    def key(self) -> BrokerKey:
        return self.owner.namespace, self.owner.name

    @property
    def is_paused(self) -> bool:
        return self.usable.paused

    @property
    def is_created(self) -> bool:
        """Whether there are workloads of this broker, which need their Secrets."""
        return self.live.owned_by(self.owner.uid).has_workloads


@dataclass(slots=True, frozen=True)
class _Desired:
    """The desired objects, as far as they can be decided."""

    referenced_files: ReferencedFiles
    owned_secrets: OwnedSecrets
    manifests: list[Manifest]
    #: Whether these are all: only then other objects of the broker are obsolete.
    is_complete: bool
    #: What is written one by one if the rest is refused: Secrets, and what runs would miss.
    upkeep: list[Manifest]
    #: The step of a store that is reduced to one server; None while nothing of it is decided.
    step: Phase | None = None


@dataclass(slots=True, frozen=True)
class _Written:
    """What came of writing: ``foreign`` objects block it."""

    result: WriteResult = field(default_factory=WriteResult)
    foreign: tuple[ObjectRef, ...] = ()
    #: Whether these belong to a deleted broker of the same name.
    is_garbage: bool = False
    #: What of the bundled store is not applied yet, or cannot be.
    store_progress: str = ""
    store_problem: str = ""
    #: Why pods are not replaced yet, although they are to be.
    waiting: Waiting | None = None

    @property
    def is_refused(self) -> bool:
        return bool(self.foreign or self.result.error)


class Reconciler:
    """See the module's docstring. Different brokers may be reconciled at the same time."""

    def __init__(
        self,
        cluster: Cluster,
        settings: Settings,
        now: Callable[[], datetime],
        admin: AdminApi,
        resync_s: float = 60.0,
        reference_index: ReferenceIndex | None = None,
        gate: RolloutGate | None = None,
        backups: BackupIndex | None = None,
    ) -> None:
        """``reference_index`` is updated with what the specs refer to. ``gate`` decides when pods
        are replaced; without it, at once. ``backups`` has all MqttBackups."""
        self._cluster = cluster
        self._settings = settings
        self._now = now
        self._resync_s = resync_s
        self._reference_index = reference_index or ReferenceIndex()
        self._backups = backups or BackupIndex()
        self._restore = restore.Restore(cluster, settings)
        self._writer = ObjectWriter(cluster)
        self._admin = admin
        self._poller = PodPoller(cluster, admin)
        self._gate = gate or RolloutGate()

    async def reconcile(self, namespace: str, name: str) -> Outcome:
        """Reconcile one broker. Raises KubeUnavailable, and KubeError if reading is rejected."""
        observed = await self._read(namespace, name)
        if observed is None:
            # Its objects are garbage-collected by Kubernetes.
            self._forget((namespace, name))
            return Outcome(None)
        observed = replace(observed, restore=await self._advance_restore(observed))
        desired = self._decide(observed)
        written = await self._write(observed, desired)
        pods = await self._poll(observed)
        status = await self._update_status(observed, desired, written, pods)
        if not observed.is_paused:
            await self._act_on_pods(observed, pods)
            await self._drop_old_backups(observed)
        requeue_after_s = _requeue_after_s(
            observed, desired, written.result, pods, status, self._resync_s
        )
        return Outcome(requeue_after_s, written.result.applied, written.result.deleted)

    def _forget(self, key: BrokerKey) -> None:
        self._poller.forget(key)
        self._reference_index.forget(key)
        self._writer.forget(key)
        self._gate.forget(key)

    # Read

    async def _read(self, namespace: str, name: str) -> _Observed | None:
        """Return what is in the cluster, None if the broker is deleted."""
        body = await self._cluster.broker(namespace, name)
        if body is None or "deletionTimestamp" in body["metadata"]:
            return None
        now = self._now()
        children = await self._cluster.children(namespace, name)
        live = LiveObjects(name, {ObjectRef.of(manifest): manifest for manifest in children})
        pods = live_state.pods(await self._cluster.pods(namespace, name), now)
        owner = Owner(name, namespace, body["metadata"]["uid"])
        spec, usable, problems = _parse_spec(owner, body)
        kinds = await self._cluster.optional_kinds()
        contents = await self._read_references(owner, usable)
        servers = None
        if is_replicated(live.store()):
            servers = await self._admin.servers(store_pods(pods))
        return _Observed(
            body, owner, spec, usable, problems, live, pods, now, contents, kinds, servers
        )

    async def _read_references(self, owner: Owner, spec: MqttBrokerSpec) -> Contents:
        keys = {reference.object_key: None for reference in references(owner.name, spec)}
        # Before they are read: later changes requeue the brokers that refer to them.
        self._reference_index.update((owner.namespace, owner.name), keys)
        contents: dict[ObjectKey, Mapping[str, bytes] | None] = {}
        for key in keys:
            manifest = await self._cluster.read(ObjectRef("v1", *key), owner.namespace)
            contents[key] = None if manifest is None else decoded(manifest)
        return contents

    # Decide

    def _decide(self, observed: _Observed) -> _Desired:
        owner, now, live = observed.owner, observed.now, observed.live
        secrets = live.secrets()
        addresses = {
            service.name: live_state.load_balancer_addresses(live.service(service.name))
            for service in client_services(owner.name, observed.usable)
        }
        step = phase(
            owner.name,
            owner.namespace,
            observed.usable,
            live.store(),
            observed.pods,
            observed.servers or {},
        )
        broker = Broker(owner.name, owner.namespace, owner.uid, step.spec)
        owned_secrets = renew_secrets(
            owner.name, owner.namespace, broker.spec, secrets, now, addresses
        )
        files = collect(
            owner.name,
            broker.spec,
            observed.contents,
            {"edge": secrets.edge, "router": secrets.router},
            now,
            has_cert_manager="Certificate" in observed.optional_kinds,
        )
        inputs = Inputs(
            broker,
            replace(self._settings, optional_kinds=observed.optional_kinds),
            owned_secrets,
            files,
            _shortest_grace_s(observed.pods),
            old_store.router_files(broker, secrets, live.objects, observed.pods),
            step.pods,
            step.wanted_primary,
        )
        kept = upkeep(inputs, secrets, is_created=observed.is_created)
        if observed.spec is None:
            return _Desired(ReferencedFiles(), owned_secrets, kept, False, kept)
        rendered = [
            *render(inputs),
            *schedule.manifests(broker, inputs.settings),
            *restore.policy(broker),
        ]
        if observed.restore is not None and not observed.restore.is_over:
            manifests = [*kept, *restore.before_it(rendered)]
            return _Desired(files, owned_secrets, manifests, False, kept)
        missing = _missing(observed, rendered) if observed.is_created else []
        kept = [*network.certificates(inputs), *kept, *missing]
        if not files.is_complete:
            # The last of two manifests with the same name wins: live Secrets keep their files.
            return _Desired(files, owned_secrets, [*prerequisites(inputs), *kept], False, kept)
        return _Desired(files, owned_secrets, rendered, True, kept, step)

    # Write

    async def _write(self, observed: _Observed, desired: _Desired) -> _Written:
        """Write the difference, unless the broker is paused or objects of others are in the way."""
        if observed.is_paused:
            return _Written()
        await self._read_unlabelled(observed.owner, desired.manifests, observed.live.objects)
        password = observed.live.secrets().redis.get("password")
        is_same_password = password == desired.owned_secrets.redis_password
        is_urgent = observed.usable.redis.own is not None and not is_same_password
        rollout = self._gate.decide(_change(observed, desired, is_urgent=is_urgent))
        try:
            written = await self._write_now(
                observed, desired, rollout, is_same_password=is_same_password
            )
        finally:
            self._gate.settle(observed.key, observed.now)
        for change in desired.owned_secrets.changes if written.result.applied else ():
            fields = {"namespace": observed.owner.namespace, "broker": observed.owner.name}
            log.info("credentials rotated", extra=fields | {"what": change})
        return replace(written, waiting=rollout.waiting)

    async def _write_now(
        self,
        observed: _Observed,
        desired: _Desired,
        rollout: Decision,
        *,
        is_same_password: bool,
    ) -> _Written:
        """Write what may be written now."""
        owner, live = observed.owner, observed.live.objects
        store = store_changes.decide(
            owner, rollout.manifests, live, observed.pods, is_same_password=is_same_password
        )
        changes = plan(store.manifests, live.values(), owner.uid, delete=desired.is_complete)
        changes = rollout.applied(store.applied(changes))

        def in_use(applied: Plan) -> frozenset[ObjectRef]:
            return old_store.in_use(owner.name, applied, desired.manifests, live, observed.pods)

        if changes.foreign:
            written = _conflict(changes.foreign, owner, live)
        else:
            is_new = not any(belongs_to(manifest, owner.uid) for manifest in live.values())
            written = _Written(
                await self._writer.write(
                    changes, owner.namespace, live, in_use, observed.now, is_new=is_new
                )
            )
        if written.is_refused:
            await self._keep_up(observed, desired, written)
        else:
            return await self._change_store(observed, desired, store, written)
        return written

    async def _change_store(
        self,
        observed: _Observed,
        desired: _Desired,
        store: store_changes.StoreChanges,
        written: _Written,
    ) -> _Written:
        """Do what is next for a larger volume, and for pods of a replicated store; return what the
        store waits for, too."""
        found, stateful_set = Growth(problem=store.problem), observed.live.store()
        if store.grow_to and stateful_set is not None:
            found = await grow(self._cluster, stateful_set, store.grow_to)
        wanted = {ObjectRef.of(manifest): manifest for manifest in desired.manifests}
        waits = await replace_servers(
            self._cluster,
            observed.key,
            stateful_set,
            observed.pods,
            observed.servers or {},
            is_last=store_changes.are_rolled_out(
                observed.owner.name, wanted, observed.live.objects, is_serving=True
            ),
        )
        store_waits = "" if desired.step is None else desired.step.waits
        progress = (found.progress, store.waits, store_waits, waits)
        return replace(
            written,
            store_progress="; ".join(filter(None, progress)),
            store_problem=found.problem,
        )

    async def _keep_up(self, observed: _Observed, desired: _Desired, written: _Written) -> None:
        """Write what must not wait until the spec is accepted, each object by itself."""
        owner, live = observed.owner, observed.live.objects
        await self._read_unlabelled(owner, desired.upkeep, live)
        authorities = ObjectRef("v1", "Secret", names.authorities_secret(owner.name))
        foreign = {ref for ref in written.foreign if ref in live}
        if authorities in foreign:
            # What they have signed would be trusted by nobody.
            return
        manifests = [one for one in desired.upkeep if ObjectRef.of(one) not in foreign]
        changes = plan(manifests, live.values(), owner.uid, delete=False)
        await self._writer.write_each(
            changes, live, written.result, observed.now, indispensable=authorities
        )

    async def _read_unlabelled(
        self, owner: Owner, manifests: Sequence[Manifest], live: dict[ObjectRef, Manifest]
    ) -> None:
        """Add objects that have a required name, but not the labels of the broker."""
        missing = [ref for ref in map(ObjectRef.of, manifests) if ref not in live]
        reads = (self._cluster.read(ref, owner.namespace) for ref in missing)
        objects = zip(missing, await asyncio.gather(*reads), strict=True)
        live |= {ref: manifest for ref, manifest in objects if manifest is not None}

    # Pods

    async def _poll(self, observed: _Observed) -> PodSummary:
        live, name = observed.live, observed.owner.name
        return await self._poller.poll(
            observed.key,
            observed.pods,
            desired_configs(name, live.restart_hashes(), live.objects),
            live_state.workload(live.deployment("edge")),
            live.admin_token(),
            observed.now,
        )

    async def _act_on_pods(self, observed: _Observed, pods: PodSummary) -> None:
        """Refresh outdated pods, and rebalance connections."""
        await self._poller.refresh(observed.key, observed.now)
        if observed.spec is None or not pods.was_polled:
            return
        text = await self._poller.rebalance(
            observed.key, observed.spec.edge, observed.live.admin_token(), observed.now
        )
        if text:
            await self._cluster.record_event(observed.body, "Normal", REBALANCING, text)

    # Backups

    async def _advance_restore(self, observed: _Observed) -> restore.RestoreState | None:
        owner, spec = observed.owner, observed.usable
        return await self._restore.advance(
            Broker(owner.name, owner.namespace, owner.uid, spec),
            observed.live.owned_by(owner.uid),
            observed.body.get("status"),
            observed.pods,
            observed.now,
            is_paused=observed.is_paused or observed.spec is None,
        )

    async def _drop_old_backups(self, observed: _Observed) -> None:
        """Delete the MqttBackups of the schedule that are beyond what is kept."""
        wanted = None if observed.spec is None else observed.spec.backup.schedule
        if wanted is None:
            return
        for ref, uid in schedule.obsolete(self._backups.of_schedule(*observed.key), wanted.keep):
            await self._cluster.delete(ref, observed.owner.namespace, uid)

    # Status

    async def _update_status(
        self, observed: _Observed, desired: _Desired, written: _Written, pods: PodSummary
    ) -> dict[str, Any]:
        """Write the status if it has changed, and record events; return it."""
        state = replace(
            _broker_state(observed, desired, written, pods),
            backups=schedule.schedule_state(
                observed.owner.name,
                observed.usable.backup.schedule,
                self._backups.of_schedule(*observed.key),
                observed.live.backup_schedule(),
                observed.now,
            ),
            restore=observed.restore,
        )
        before = observed.body.get("status")
        status = seen(conditions.status(state, before, observed.now), before, observed.now)
        if status != before:
            await self._cluster.set_status(observed.owner.namespace, observed.owner.name, status)
            for kind, condition in condition_events.changes(before or {}, status):
                reason, message = condition["reason"], condition["message"]
                await self._cluster.record_event(observed.body, kind, reason, message)
        return status


def _parse_spec(
    owner: Owner, body: Manifest
) -> tuple[MqttBrokerSpec | None, MqttBrokerSpec, list[str]]:
    """Return the spec, None if it is invalid; its usable part; and what is wrong."""
    raw = body.get("spec") or {}
    try:
        spec = parse(owner.name, raw)
    except SpecError as error:
        return None, usable_part(raw), error.problems
    problems = runtime_problems(Broker(owner.name, owner.namespace, owner.uid, spec))
    return (None, spec, problems) if problems else (spec, spec, [])


def _change(observed: _Observed, desired: _Desired, *, is_urgent: bool) -> Change:
    before = observed.body.get("status") or {}
    generation = observed.body["metadata"].get("generation", 0)
    return Change(
        observed.key,
        observed.owner.uid,
        observed.usable if desired.step is None else desired.step.spec,
        desired.manifests,
        observed.live.objects,
        observed.now,
        was_observed=before.get("observedGeneration") == generation,
        is_urgent=is_urgent,
        step=_marks(desired.step),
    )


def _marks(step: Phase | None) -> tuple[object, ...]:
    return () if step is None or step.pods is None else (step.pods, step.wanted_primary)


def _missing(observed: _Observed, manifests: Sequence[Manifest]) -> list[Manifest]:
    status = observed.body.get("status")
    return missing_basics(
        observed.owner.name, observed.usable, status, manifests, observed.live.objects
    )


def _shortest_grace_s(pods: Sequence[live_state.Pod]) -> int | None:
    """Return the shortest grace period of edges, including terminating ones."""
    return min(
        (pod.grace_s for pod in pods if pod.component == "edge" and pod.grace_s), default=None
    )


def _conflict(
    foreign: Sequence[ObjectRef], owner: Owner, live: Mapping[ObjectRef, Manifest]
) -> _Written:
    """Return the objects that block writing; those that Kubernetes will delete only if no other."""
    lasting = tuple(ref for ref in foreign if not awaits_garbage_collection(live[ref], owner.name))
    return _Written(foreign=lasting or tuple(foreign), is_garbage=not lasting)


def _broker_state(
    observed: _Observed, desired: _Desired, written: _Written, pods: PodSummary
) -> BrokerState:
    owner, spec, live = observed.owner, observed.spec, observed.live.owned_by(observed.owner.uid)
    store = live.store()
    is_bundled = store is not None if spec is None else spec.redis.own is not None
    # Without workloads they are those of a deleted broker of this name.
    store_pods = observed.pods if live.has_workloads else ()
    return BrokerState(
        name=owner.name,
        generation=observed.body["metadata"].get("generation", 0),
        spec=spec,
        spec_problems=observed.spec_problems,
        dropped=dropped_fields(observed.body),
        reference_problems=desired.referenced_files.problems,
        foreign=written.foreign,
        is_garbage=written.is_garbage,
        apply_error=written.result.error,
        is_partly_applied=written.result.is_partial,
        edges=live_state.workload(live.deployment("edge")),
        routers=live_state.workload(live.deployment("router")),
        redis=live_state.bundled_store(store, store_pods) if is_bundled else None,
        store_progress=written.store_progress,
        store_problem=written.store_problem,
        waiting=written.waiting,
        servers=observed.servers,
        keeps_store=spec is not None and old_store.is_kept(spec, store),
        pods=observed.pods,
        outdated=pods.outdated,
        failing=pods.failing,
        addresses=[
            live_state.addresses(live.service(service.name), owner.namespace, service.listeners)
            for service in client_services(owner.name, observed.usable)
        ],
        missing_kinds=ROUTE_KINDS - observed.optional_kinds.keys(),
        routes=route_statuses(
            owner.name,
            owner.namespace,
            observed.usable,
            observed.optional_kinds,
            live.objects.values(),
        ),
        certificates=_certificates(observed, desired),
        connections=pods.connections,
        has_acl=ACL_FILE in live.edge_files(),
    )


def _certificates(observed: _Observed, desired: _Desired) -> dict[str, list[CertificateInfo]]:
    """Return the certificates of all listeners. Of self-signed ones, those that edges mount: a due
    renewal is not written while a broker is paused or blocked."""
    certificates = {
        listener: list(infos) for listener, infos in desired.referenced_files.certificates.items()
    }
    mounted = observed.live.edge_files()
    for listener in desired.owned_secrets.listener_pairs:
        pair = pair_in(mounted, f"listener.{listener}")
        with contextlib.suppress(CertificateProblem):
            if pair is not None:
                info = check_pair(pair.certificate, pair.key)
                certificates.setdefault(listener, []).insert(0, info)
    return certificates


def _requeue_after_s(
    observed: _Observed,
    desired: _Desired,
    result: WriteResult,
    pods: PodSummary,
    status: Mapping[str, Any],
    resync_s: float,
) -> float:
    """Return when to reconcile again if nothing changes in the cluster."""
    idle_s = pods.unchanged_s * _UNCHANGED_SHARE
    after_s = _status_interval_s(observed, desired, pods, status, idle_s, resync_s)
    if result.kept:
        after_s = min(after_s, max(PROGRESSING_S, idle_s))
    if result.backoff_s:
        after_s = min(after_s, result.backoff_s)
    return after_s


def _status_interval_s(
    observed: _Observed,
    desired: _Desired,
    pods: PodSummary,
    status: Mapping[str, Any],
    idle_s: float,
    resync_s: float,
) -> float:
    """Return the interval that the status asks for, or the time until something is due."""
    by_type = {condition["type"]: condition for condition in status["conditions"]}
    is_applying = by_type["ConfigApplied"]["reason"] == Reason.APPLYING
    if by_type["Progressing"]["status"] == "True" or (is_applying and pods.is_fresh):
        return max(PROGRESSING_S, min(idle_s, resync_s, SEEN_INTERVAL.total_seconds()))
    routes = [one["route"] for one in status.get("listeners") or [] if "route" in one]
    is_wrong = (
        by_type["Degraded"]["status"] == "True"
        or any(
            by_type[kind]["status"] != "True"
            for kind in ("Ready", STORE_REPLICATED)
            if kind in by_type
        )
        or any(one["accepted"] == "Unknown" for one in routes)
    )
    after_s = min(max(DEGRADED_S, idle_s), resync_s) if is_wrong or is_applying else resync_s
    if observed.spec is not None and observed.spec.edge.rebalance.enabled:
        after_s = min(after_s, COUNT_S)
    due_s = (desired.owned_secrets.next_change - observed.now).total_seconds()
    return max(1.0, min(after_s, due_s, SEEN_INTERVAL.total_seconds()))
