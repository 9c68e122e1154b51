"""What is desired of one broker, what came of writing it, what the rollout gate decides on. Pure.

Made and used by ``reconciler``; ``state`` and ``interval`` read it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from tidegate_operator.kube.writer import WriteResult
from tidegate_operator.plan import ObjectRef, awaits_garbage_collection
from tidegate_operator.reconcile.observation import Observed
from tidegate_operator.render import Manifest, Owner
from tidegate_operator.replicas.phase import Phase
from tidegate_operator.rollout.gate import Change, Waiting
from tidegate_operator.secrets.owned_secrets import OwnedSecrets
from tidegate_operator.secrets.references import ReferencedFiles


@dataclass(slots=True, frozen=True)
class Desired:
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
class Written:
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


def rollout_change(observed: Observed, desired: Desired, *, is_urgent: bool) -> Change:
    """Return what the rollout gate decides on."""
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


def conflict(
    foreign: Sequence[ObjectRef], owner: Owner, live: Mapping[ObjectRef, Manifest]
) -> Written:
    """Return the objects that block writing; those that Kubernetes will delete only if no other."""
    lasting = tuple(ref for ref in foreign if not awaits_garbage_collection(live[ref], owner.name))
    return Written(foreign=lasting or tuple(foreign), is_garbage=not lasting)
