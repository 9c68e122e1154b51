"""Reconciles one ``MqttBroker``: the same steps, whatever has changed.

Read the live objects, decide what is desired (pure), write the difference, poll the pods, update
the status. Called by ``handlers`` for each key of the work queue; returns when to be called again.
What is desired is up to the pure modules.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from typing import Any, Final

from tidegate_operator import live_state, names, old_store, store_changes
from tidegate_operator.backups import restore, schedule
from tidegate_operator.backups.controller import BackupIndex, missing_target
from tidegate_operator.kube.interface import Cluster
from tidegate_operator.kube.store_pods import replace_servers
from tidegate_operator.kube.store_volume import Growth, grow
from tidegate_operator.kube.writer import ObjectWriter, WriteResult
from tidegate_operator.live_objects import LiveObjects
from tidegate_operator.names import BrokerKey
from tidegate_operator.plan import ObjectRef, Plan, belongs_to, plan
from tidegate_operator.pods.config_state import desired_configs
from tidegate_operator.pods.poller import AdminApi, PodPoller, PodSummary
from tidegate_operator.pods.shown_conditions import show_conditions
from tidegate_operator.reconcile import interval
from tidegate_operator.reconcile.changes import Desired, Written, conflict, rollout_change
from tidegate_operator.reconcile.last_applied import LastApplied, record_of, ref_of
from tidegate_operator.reconcile.missing_objects import basics, superseded
from tidegate_operator.reconcile.observation import Observed, parse_spec
from tidegate_operator.reconcile.state import broker_state
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
from tidegate_operator.render.inputs import decoded
from tidegate_operator.replicas.phase import phase
from tidegate_operator.replicas.servers import is_replicated, store_pods
from tidegate_operator.rollout.gate import Decision, RolloutGate
from tidegate_operator.secrets.owned_secrets import renew_secrets
from tidegate_operator.secrets.reference_index import ReferenceIndex
from tidegate_operator.secrets.references import (
    Contents,
    ObjectKey,
    ReferencedFiles,
    collect,
    references,
)
from tidegate_operator.spec.broker import MqttBrokerSpec
from tidegate_operator.spec.client_services import client_services
from tidegate_operator.spec.status import seen
from tidegate_operator.status import condition_events, conditions

log = logging.getLogger(__name__)

#: Reason of the event when edges disconnect clients.
REBALANCING: Final = "Rebalancing"


@dataclass(slots=True, frozen=True)
class Outcome:
    """``requeue_after_s``: when to reconcile again, None for a deleted broker."""

    requeue_after_s: float | None
    applied: int = 0
    deleted: int = 0


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
        self._applied = LastApplied()

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
        generation = observed.body["metadata"].get("generation", 0)
        await show_conditions(self._cluster, observed.key, generation, observed.pods, status)
        if not observed.is_paused:
            await self._act_on_pods(observed, pods)
            await self._drop_old_backups(observed)
        requeue_after_s = interval.requeue_after_s(
            observed, desired, written.result, pods, status, self._resync_s
        )
        return Outcome(requeue_after_s, written.result.applied, written.result.deleted)

    def _forget(self, key: BrokerKey) -> None:
        self._poller.forget(key)
        self._reference_index.forget(key)
        self._writer.forget(key)
        self._gate.forget(key)
        self._applied.forget(key)

    # Read

    async def _read(self, namespace: str, name: str) -> Observed | None:
        """Return what is in the cluster, None if the broker is deleted."""
        body = await self._cluster.broker(namespace, name)
        if body is None or "deletionTimestamp" in body["metadata"]:
            return None
        now = self._now()
        children = await self._cluster.children(namespace, name)
        live = LiveObjects(name, {ObjectRef.of(manifest): manifest for manifest in children})
        pods = live_state.pods(await self._cluster.pods(namespace, name), now)
        owner = Owner(name, namespace, body["metadata"]["uid"])
        is_external = live.has_workloads and live.store() is None
        spec, usable, problems = parse_spec(owner, body, is_external=is_external)
        kinds = await self._cluster.optional_kinds()
        contents = await self._read_references(owner, usable)
        servers = None
        if is_replicated(live.store()):
            servers = await self._admin.servers(store_pods(pods))
        return Observed(
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

    def _decide(self, observed: Observed) -> Desired:
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
            {"edge": secrets.edge, "router": secrets.router, "console": secrets.console},
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
            kept += self._basics(observed, render(inputs))
            return Desired(ReferencedFiles(), owned_secrets, kept, False, kept)
        rendered = [
            *render(inputs),
            *schedule.manifests(broker, inputs.settings),
            *restore.policy(broker),
        ]
        if observed.restore is not None and not observed.restore.is_over:
            manifests = [*kept, *restore.before_it(rendered)]
            return Desired(files, owned_secrets, manifests, False, kept)
        kept = [*network.certificates(inputs), *kept, *self._basics(observed, rendered)]
        if not files.is_complete:
            # The last of two manifests with the same name wins: live Secrets keep their files.
            return Desired(files, owned_secrets, [*prerequisites(inputs), *kept], False, kept)
        return Desired(files, owned_secrets, rendered, True, kept, step)

    def _basics(self, observed: Observed, manifests: Sequence[Manifest]) -> list[Manifest]:
        """Return what a broker that runs has to have as it was, if its spec is refused."""
        if not observed.is_created:
            return []
        return basics(
            observed.owner.name,
            observed.usable,
            observed.body.get("status"),
            manifests,
            observed.live.objects,
            self._applied.of(observed.owner, observed.live.objects),
            is_whole=observed.spec is not None,
        )

    # Write

    async def _write(self, observed: Observed, desired: Desired) -> Written:
        """Write the difference, unless the broker is paused or objects of others are in the way."""
        if observed.is_paused:
            return Written()
        await self._read_unlabelled(observed.owner, desired.manifests, observed.live.objects)
        if not desired.is_complete:
            dropped = self._superseded(observed, desired, [])
            manifests = [one for one in desired.manifests if ObjectRef.of(one) not in dropped]
            desired = replace(desired, manifests=manifests)
        password = observed.live.secrets().redis.get("password")
        is_same_password = password == desired.owned_secrets.redis_password
        is_urgent = observed.usable.redis.own is not None and not is_same_password
        rollout = self._gate.decide(rollout_change(observed, desired, is_urgent=is_urgent))
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
        observed: Observed,
        desired: Desired,
        rollout: Decision,
        *,
        is_same_password: bool,
    ) -> Written:
        """Write what may be written now."""
        owner, live = observed.owner, observed.live.objects
        store = store_changes.decide(
            owner, rollout.manifests, live, observed.pods, is_same_password=is_same_password
        )
        record = ref_of(owner.name)
        others = [manifest for ref, manifest in live.items() if ref != record]
        compared = others if desired.is_complete else live.values()
        changes = plan(store.manifests, compared, owner.uid, delete=desired.is_complete)
        changes = rollout.applied(store.applied(changes))

        def in_use(applied: Plan) -> frozenset[ObjectRef]:
            return old_store.in_use(owner.name, applied, desired.manifests, live, observed.pods)

        if changes.foreign:
            written = conflict(changes.foreign, owner, live)
        else:
            is_new = not any(belongs_to(manifest, owner.uid) for manifest in live.values())
            written = Written(
                await self._writer.write(
                    changes, owner.namespace, live, in_use, observed.now, is_new=is_new
                )
            )
        if written.is_refused:
            await self._keep_up(observed, desired, written, store.manifests)
        else:
            if desired.is_complete and rollout.waiting is None:
                await self._record(observed, desired, written.result)
            return await self._change_store(observed, desired, store, written)
        return written

    async def _record(self, observed: Observed, desired: Desired, result: WriteResult) -> None:
        """Keep what has been applied, whole. What cannot be kept holds up nothing."""
        owner, live = observed.owner, observed.live.objects
        if not (result.applied or result.deleted) and self._applied.is_current(owner, live):
            return
        record = record_of(owner, desired.manifests)
        if self._applied.is_refused(owner, record):
            return
        await self._read_unlabelled(owner, [record], live)
        changes = plan([record], live.values(), owner.uid, delete=False)
        done = WriteResult(errors=[f"{ref} is not of this broker" for ref in changes.foreign])
        await self._writer.write_each(
            changes, live, done, observed.now, indispensable=ref_of(owner.name)
        )
        result.applied += done.applied
        self._applied.written(owner, record, is_refused=bool(done.errors))
        if done.errors:
            fields = {"namespace": owner.namespace, "broker": owner.name, "reason": done.error}
            log.warning("what was applied cannot be kept for a new operator", extra=fields)

    async def _change_store(
        self,
        observed: Observed,
        desired: Desired,
        store: store_changes.StoreChanges,
        written: Written,
    ) -> Written:
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

    async def _keep_up(
        self,
        observed: Observed,
        desired: Desired,
        written: Written,
        refused: Sequence[Manifest],
    ) -> None:
        """Write what must not wait until the spec is accepted, each object by itself."""
        owner, live = observed.owner, observed.live.objects
        await self._read_unlabelled(owner, desired.upkeep, live)
        authorities = ObjectRef("v1", "Secret", names.authorities_secret(owner.name))
        foreign = {ref for ref in written.foreign if ref in live}
        if authorities in foreign:
            # What they have signed would be trusted by nobody.
            return
        dropped = foreign | self._superseded(observed, desired, refused)
        manifests = [one for one in desired.upkeep if ObjectRef.of(one) not in dropped]
        changes = plan(manifests, live.values(), owner.uid, delete=False)
        await self._writer.write_each(
            changes, live, written.result, observed.now, indispensable=authorities
        )

    def _superseded(
        self, observed: Observed, desired: Desired, refused: Sequence[Manifest]
    ) -> frozenset[ObjectRef]:
        """Return what must not be as it was any more, now that all of it has been read."""
        return superseded(
            desired.upkeep,
            refused,
            observed.live.objects,
            observed.owner.uid,
            observed.optional_kinds,
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

    async def _poll(self, observed: Observed) -> PodSummary:
        live, name = observed.live, observed.owner.name
        return await self._poller.poll(
            observed.key,
            observed.pods,
            desired_configs(name, live.restart_hashes(), live.objects),
            live_state.workload(live.deployment("edge")),
            live.admin_token(),
            observed.now,
        )

    async def _act_on_pods(self, observed: Observed, pods: PodSummary) -> None:
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

    async def _advance_restore(self, observed: Observed) -> restore.RestoreState | None:
        owner, spec = observed.owner, observed.usable
        return await self._restore.advance(
            Broker(owner.name, owner.namespace, owner.uid, spec),
            observed.live.owned_by(owner.uid),
            observed.body.get("status"),
            observed.pods,
            observed.now,
            is_paused=observed.is_paused or observed.spec is None,
        )

    async def _drop_old_backups(self, observed: Observed) -> None:
        """Delete the MqttBackups of the schedule that are beyond what is kept."""
        wanted = None if observed.spec is None else observed.spec.backup.schedule
        if wanted is None:
            return
        for ref, uid in schedule.obsolete(self._backups.of_schedule(*observed.key), wanted.keep):
            await self._cluster.delete(ref, observed.owner.namespace, uid)

    async def _missing_target(self, observed: Observed) -> str:
        """Return what does not exist of the target of the schedule, "" if nothing is missing."""
        wanted = observed.usable.backup.schedule
        if wanted is None or wanted.suspend:
            return ""
        missing = await missing_target(self._cluster, wanted.target, observed.owner.namespace)
        return "" if missing is None else missing.message

    # Status

    async def _creation_failure(
        self, observed: Observed, store: live_state.Workload | None
    ) -> live_state.CreationFailure | None:
        """Return why the store has no pod: its StatefulSet does not say so, an event does."""
        if not live_state.has_no_pods(store, observed.pods):
            return None
        name = names.workload(observed.owner.name, "redis")
        event = await self._cluster.creation_failure(observed.owner.namespace, name)
        return None if event is None else live_state.CreationFailure.of(event)

    async def _update_status(
        self, observed: Observed, desired: Desired, written: Written, pods: PodSummary
    ) -> dict[str, Any]:
        """Write the status if it has changed, and record events; return it."""
        state = broker_state(observed, desired, written, pods)
        state = replace(
            state,
            creation_failure=await self._creation_failure(observed, state.redis),
            backups=schedule.schedule_state(
                observed.owner.name,
                observed.usable.backup.schedule,
                self._backups.of_schedule(*observed.key),
                observed.live.backup_schedule(),
                await self._missing_target(observed),
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


def _shortest_grace_s(pods: Sequence[live_state.Pod]) -> int | None:
    """Return the shortest grace period of edges, including terminating ones."""
    return min(
        (pod.grace_s for pod in pods if pod.component == "edge" and pod.grace_s), default=None
    )
