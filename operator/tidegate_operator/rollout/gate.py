"""How many brokers the operator rolls at the same time, and which of them waits. Pure.

The rollouts in progress are read from the annotations of edges' Deployments, so a new operator
continues where another one has stopped; only what is being written at this moment, and who waits,
is remembered. ``handlers`` owns the one ``RolloutGate``; ``reconcile`` calls it for each broker.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta
from typing import Final

from tidegate_operator.names import BrokerKey
from tidegate_operator.plan import ObjectRef, Plan
from tidegate_operator.render import Manifest
from tidegate_operator.rollout import templates
from tidegate_operator.rollout.windows import waits_until
from tidegate_operator.spec.broker import MqttBrokerSpec
from tidegate_operator.spec.maintenance import MaintenanceWindow
from tidegate_operator.spec.status import Reason

#: After so long a rollout does not count any more, whatever it does; one that exceeds the progress
#: deadline of its Deployment (ten minutes without progress) counts no longer than that.
LONGEST: Final = timedelta(minutes=30)
_MAX_NAMED: Final = 3
#: Above this a position is rounded, so that the status of waiting brokers is seldom written.
_EXACT_POSITION: Final = 10

#: The live objects of all brokers; None while they are not known.
Fleet = Callable[[], Mapping[BrokerKey, Mapping[ObjectRef, Manifest]] | None]


@dataclass(slots=True, frozen=True)
class Waiting:
    """Why pods are not replaced yet."""

    reason: Reason
    text: str
    #: Whether the newest spec is what waits; otherwise it is in use.
    is_of_spec: bool = False


@dataclass(slots=True, frozen=True)
class Change:
    """The desired objects of a broker, and what they are compared with."""

    key: BrokerKey
    uid: str
    spec: MqttBrokerSpec
    manifests: Sequence[Manifest]
    live: Mapping[ObjectRef, Manifest]
    now: datetime
    #: Whether this generation of the spec had a status before.
    was_observed: bool
    #: Whether credentials change with the pods: then nothing waits.
    is_urgent: bool = False
    #: What tells apart the steps in which a change of the spec is made.
    step: Sequence[object] = ()


@dataclass(slots=True, frozen=True)
class Decision:
    """What may be written now; objects in ``skipped`` stay as they are."""

    manifests: list[Manifest]
    skipped: frozenset[ObjectRef] = frozenset()
    waiting: Waiting | None = None

    def applied(self, plan: Plan) -> Plan:
        """Return a plan without what is skipped."""
        return replace(
            plan, apply=tuple(one for one in plan.apply if ObjectRef.of(one) not in self.skipped)
        )


@dataclass(slots=True)
class _Memory:
    """What is not in the cluster: rollouts being written, and brokers that wait."""

    granted: set[BrokerKey] = field(default_factory=set)
    waiting: set[BrokerKey] = field(default_factory=set)


class RolloutGate:
    """See the module's docstring. ``limit``: brokers at the same time, 0 for any number;
    ``wake`` is called for brokers whose turn it is."""

    def __init__(
        self,
        limit: int = 0,
        windows: Sequence[MaintenanceWindow] = (),
        fleet: Fleet = dict,
        wake: Callable[[BrokerKey], None] = lambda key: None,
    ) -> None:
        self._limit = limit
        self._windows = windows
        self._fleet = fleet
        self._wake = wake
        self._memory = _Memory()

    def load(self) -> int:
        """Return how many brokers wait for their turn."""
        return len(self._memory.waiting)

    def forget(self, key: BrokerKey) -> None:
        """Remove a deleted broker."""
        self._memory.granted.discard(key)
        self._memory.waiting.discard(key)

    def settle(self, key: BrokerKey, now: datetime) -> None:
        """Note that what was decided for a broker is written, or refused; wake who is next."""
        self._memory.granted.discard(key)
        if not self._memory.waiting:
            return
        rolling = self._rolling(now)
        free = 0 if rolling is None else self._limit - len(rolling)
        for waiting in sorted(self._memory.waiting - {key})[: max(0, free)]:
            # It waits again if it still has to: one that cannot roll blocks nobody.
            self._memory.waiting.discard(waiting)
            self._wake(waiting)

    def decide(self, change: Change) -> Decision:
        """Return what may be written now. ``settle`` must follow."""
        self._memory.waiting.discard(change.key)
        manifests = templates.stamped(change.manifests, change.live, change.spec, change.step)
        changed = templates.changed(manifests, change.live, change.uid)
        is_own = bool(changed) and all(
            templates.is_same_spec(*pair, was_observed=change.was_observed) for pair in changed
        )
        since = self._since(change, is_changed=bool(changed))
        may_wait = bool(changed) and since is None and not change.is_urgent
        waiting = self._waiting(change, is_own=is_own) if may_wait else None
        if waiting is not None:
            held = (ObjectRef.of(wanted) for wanted, _ in changed)
            kept, skipped = templates.hold(
                manifests, change.live, held, was_observed=change.was_observed
            )
            return Decision(kept, skipped, waiting)
        if may_wait and is_own:
            since = change.now
            self._memory.granted.add(change.key)
        return Decision(templates.with_rolling_since(manifests, change.key[1], since))

    def _since(self, change: Change, *, is_changed: bool) -> datetime | None:
        """Return since when the broker has been rolling; None if it is not, or for too long."""
        broker = change.key[1]
        since = templates.rolling_since(broker, change.live)
        if since is None or not timedelta() <= change.now - since < LONGEST:
            return None
        is_done = not is_changed and templates.is_complete(change.manifests, change.live)
        return None if is_done else since

    def _waiting(self, change: Change, *, is_own: bool) -> Waiting | None:
        """Return why pods must not be replaced now, None if they may."""
        maintenance = change.spec.maintenance
        if not is_own and maintenance.policy == "operator":
            return None
        closed = waits_until(maintenance, self._windows, change.now)
        if closed:
            return Waiting(Reason.WINDOW_CLOSED, _closed_text(closed, is_own=is_own), not is_own)
        return self._queued(change) if is_own and self._limit else None

    def _queued(self, change: Change) -> Waiting | None:
        """Return what goes first, None if it is the broker's turn."""
        rolling, waiting = self._rolling(change.now), self._memory.waiting
        if rolling is None:
            return Waiting(
                Reason.ROLLOUT_WAITING,
                "The operator does not see all brokers at the moment, and so not how many are "
                "rolling: what this version of it changes about pods waits. The broker serves as "
                "it is; if this lasts, see the operator's /readyz and log.",
            )
        rolling.discard(change.key)
        if len(rolling) < self._limit:
            return None
        ahead = sum(key < change.key for key in waiting)
        waiting.add(change.key)
        return Waiting(Reason.ROLLOUT_WAITING, _queued_text(sorted(rolling), ahead, self._limit))

    def _rolling(self, now: datetime) -> set[BrokerKey] | None:
        """Return the brokers whose rollout counts; None if they are not known."""
        fleet = self._fleet()
        if fleet is None:
            return None
        return self._memory.granted | {
            key for key, live in fleet.items() if _counts(key[1], live, now)
        }


def _counts(broker: str, live: Mapping[ObjectRef, Manifest], now: datetime) -> bool:
    """Whether a rollout is in progress that others have to wait for."""
    since = templates.rolling_since(broker, live)
    return (
        since is not None
        and timedelta() <= now - since < LONGEST
        and not templates.is_stuck(broker, live)
    )


def _queued_text(rolling: Sequence[BrokerKey], ahead: int, limit: int) -> str:
    named = [f"{namespace}/{name}" for namespace, name in rolling[:_MAX_NAMED]]
    more = f" and {len(rolling) - _MAX_NAMED} more" if len(rolling) > _MAX_NAMED else ""
    about = ahead if ahead < _EXACT_POSITION else -(-ahead // _EXACT_POSITION) * _EXACT_POSITION
    first = (
        f", then {'about ' if about != ahead else ''}{about} that wait before it" if about else ""
    )
    now_rolling = f"{', '.join(named)}{more}" if named else "none now"
    return (
        "The newest spec is in use. What this version of the operator changes about pods waits for "
        f"its turn: {limit} brokers are rolled at the same time ({now_rolling}){first} "
        "(rollout.maxConcurrent of the operator's chart). A change of the spec does not wait."
    )


def _closed_text(until: str, *, is_own: bool) -> str:
    now = "To have it now, set spec.maintenance.openUntil to a time to come."
    if is_own:
        return (
            "The newest spec is in use. What this version of the operator changes about pods waits "
            f"for a maintenance window: {until}. {now}"
        )
    return (
        "What the newest spec changes about pods waits for a maintenance window, because "
        f"spec.maintenance.policy is all: {until}. Everything else is applied. {now}"
    )
