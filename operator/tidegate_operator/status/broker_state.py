"""What a status is made of, and how its sentences are joined. Pure.

Filled by ``reconcile.state``; read by all modules of the conditions.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Final

from tidegate_operator.backups.restore import RestoreState
from tidegate_operator.backups.schedule import ScheduleState
from tidegate_operator.live_state import Addresses, CreationFailure, Pod, Workload
from tidegate_operator.plan import ObjectRef
from tidegate_operator.pods.config_state import Outdated
from tidegate_operator.replicas.servers import StoreServer
from tidegate_operator.rollout.gate import Waiting
from tidegate_operator.secrets.certificates import CertificateInfo
from tidegate_operator.secrets.references import Problem
from tidegate_operator.spec.broker import MqttBrokerSpec
from tidegate_operator.spec.status import Reason, RouteStatus

_MAX_NAMED: Final = 3

#: Status, reason and message of a condition.
Value = tuple[str, Reason, str]


@dataclass(slots=True, frozen=True)
class BrokerState:
    """Everything that a status is made of.

    ``spec`` is None if it is invalid (``spec_problems`` says why). ``outdated``: pods that do not
    use the desired configuration, by name; ``failing``: those of them that have rejected it for
    long.
    """

    name: str
    generation: int
    spec: MqttBrokerSpec | None
    spec_problems: Sequence[str] = ()
    #: Fields of the manifest that the stored spec does not have (see ``spec.dropped``).
    dropped: Sequence[str] = ()
    reference_problems: Sequence[Problem] = ()
    foreign: Sequence[ObjectRef] = ()
    #: Whether these belong to a deleted broker of the same name, and will be garbage-collected.
    is_garbage: bool = False
    apply_error: str = ""
    #: Whether the rejection came after the dry run, so that other objects may have been applied.
    is_partly_applied: bool = False
    edges: Workload = field(default_factory=Workload)
    routers: Workload = field(default_factory=Workload)
    redis: Workload | None = None
    #: Why the store's pod could not be created, if it has none; None if that is not known.
    creation_failure: CreationFailure | None = None
    #: The console, None without one.
    console: Workload | None = None
    #: Whether the bundled store still exists although the spec names another one.
    keeps_store: bool = False
    #: Reports of a replicated store's servers, by the name of the pod; None for other stores.
    servers: Mapping[str, StoreServer] | None = None
    #: What of the bundled store is not applied yet, and what cannot be; "" if nothing.
    store_progress: str = ""
    store_problem: str = ""
    #: Why pods are not replaced yet, although they are to be.
    waiting: Waiting | None = None
    pods: Sequence[Pod] = ()
    outdated: Mapping[str, Outdated] = field(default_factory=dict)
    failing: Sequence[str] = ()
    #: Addresses of the Services for clients, in the order of the listeners.
    addresses: Sequence[Addresses] = ()
    #: The routes that the spec asks for, by ``WantedRoute.listener``.
    routes: Mapping[str, RouteStatus] = field(default_factory=dict)
    #: Kinds of these routes that the cluster does not have.
    missing_kinds: frozenset[str] = frozenset()
    certificates: Mapping[str, Sequence[CertificateInfo]] = field(default_factory=dict)
    #: The certificate of the console, None without one.
    console_certificate: CertificateInfo | None = None
    connections: int | None = None
    #: Scheduled backups, None without a schedule.
    backups: ScheduleState | None = None
    #: The restore that it begins with, None without one.
    restore: RestoreState | None = None
    #: Listeners whose clients no rules restrict, by the files that edges mount (of whatever
    #: generation); None: as the spec says.
    unprotected: Sequence[str] | None = None

    @property
    def is_paused(self) -> bool:
        """Whether reconciliation is suspended."""
        return self.spec is not None and self.spec.paused

    @property
    def has_edges(self) -> bool:
        """Whether the broker has been created."""
        return self.edges.exists

    @property
    def has_workloads(self) -> bool:
        """Whether anything of the broker may run."""
        return any(workload.exists for _, workload in self.workloads)

    @property
    def workloads(self) -> list[tuple[str, Workload]]:
        """The workloads, with their names in messages."""
        optional = [("the store", self.redis)], [("the console", self.console)]
        before, after = (
            [(name, workload) for name, workload in part if workload is not None]
            for part in optional
        )
        return [*before, ("edges", self.edges), ("routers", self.routers), *after]


def time_text(moment: datetime) -> str:
    """Return a time as the API server writes it."""
    return moment.strftime("%Y-%m-%dT%H:%M:%SZ")


def some(sentences: Sequence[str]) -> str:
    """Join the first sentences, and count the others."""
    rest = len(sentences) - _MAX_NAMED
    more = f" (and {rest} more)" if rest > 0 else ""
    return "; ".join(sentences[:_MAX_NAMED]) + more


def sentences(problems: Sequence[Problem]) -> str:
    """Return what the first problems are."""
    return some([problem.sentence for problem in problems])
