"""Fills the ``BrokerState``, of which the status is made, from what a reconcile has found. Pure.

Called by ``reconciler``.
"""

from __future__ import annotations

import contextlib
from collections.abc import Container

from tidegate_operator import live_state, old_store
from tidegate_operator.plan import ROUTE_KINDS
from tidegate_operator.pods.poller import PodSummary
from tidegate_operator.reconcile.changes import Desired, Written
from tidegate_operator.reconcile.observation import Observed
from tidegate_operator.secrets.certificates import CertificateInfo, CertificateProblem, check_pair
from tidegate_operator.secrets.owned_secrets import SecretData, pair_in
from tidegate_operator.secrets.references import ACL_FILE, listener_file
from tidegate_operator.spec.broker import MqttBrokerSpec
from tidegate_operator.spec.client_services import client_services
from tidegate_operator.spec.dropped import dropped_fields
from tidegate_operator.spec.route_status import route_statuses
from tidegate_operator.status.broker_state import BrokerState


def broker_state(
    observed: Observed, desired: Desired, written: Written, pods: PodSummary
) -> BrokerState:
    """Return what the status is made of, without backups and restore."""
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
        console=live_state.workload(live.deployment("console"))
        if observed.usable.console.enabled
        else None,
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
        console_certificate=desired.referenced_files.console_certificate,
        connections=pods.connections,
        unprotected=_unprotected(observed.usable, live.edge_files()),
    )


def _unprotected(spec: MqttBrokerSpec, files: Container[str]) -> list[str]:
    """Return the listeners without rules: neither those of the broker nor of their own."""
    return [
        listener.name
        for listener in spec.listeners
        if ACL_FILE not in files and f"{listener_file(listener)}.{ACL_FILE}" not in files
    ]


def _certificates(observed: Observed, desired: Desired) -> dict[str, list[CertificateInfo]]:
    """Return the certificates of all listeners. Of self-signed ones, those that edges mount: a due
    renewal is not written while a broker is paused or blocked. All that they mount if the spec is
    invalid."""
    certificates = {
        listener: list(infos) for listener, infos in desired.referenced_files.certificates.items()
    }
    mounted = observed.live.edge_files()
    if observed.spec is None:
        return _mounted_certificates(mounted)
    for listener in desired.owned_secrets.listener_pairs:
        pair = pair_in(mounted, f"listener.{listener}")
        with contextlib.suppress(CertificateProblem):
            if pair is not None:
                info = check_pair(pair.certificate, pair.key)
                certificates.setdefault(listener, []).insert(0, info)
    return certificates


def _mounted_certificates(mounted: SecretData) -> dict[str, list[CertificateInfo]]:
    """Return what edges mount: ``listener.NAME.crt``, and ``listener.NAME.2.crt`` of further ones.

    Such names with another part are of authorities: they have no key.
    """
    found: dict[str, list[CertificateInfo]] = {}
    for file in sorted(mounted):
        section, _, rest = file.removesuffix(".crt").partition(".")
        pair = pair_in(mounted, f"listener.{rest}")
        if section != "listener" or not file.endswith(".crt") or pair is None:
            continue
        with contextlib.suppress(CertificateProblem):
            info = check_pair(pair.certificate, pair.key)
            found.setdefault(rest.partition(".")[0], []).append(info)
    return found
