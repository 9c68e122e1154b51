"""The status of a broker: conditions with reasons of a closed set, and sentences that help.

Pure: made from facts (``Situation``), the status before it, and the time.

A spec that cannot be used changes nothing that runs, so it does not touch ``Ready``, which is about
what serves now: it shows as ``Degraded`` and as ``ConfigApplied`` False.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta
from typing import Any, Final

from tidegate_operator import names
from tidegate_operator.live_state import Addresses, Pod, Workload
from tidegate_operator.plan import ObjectRef
from tidegate_operator.pods.config_state import Lag, is_counted
from tidegate_operator.secrets.certificates import Facts
from tidegate_operator.secrets.references import Problem, Trouble
from tidegate_operator.spec.broker import MqttBrokerSpec
from tidegate_operator.spec.status import (
    MAX_ADDRESSES,
    MAX_MESSAGE,
    BrokerStatus,
    Condition,
    ConditionType,
    ListenerStatus,
    PodsStatus,
    Reason,
)

#: Before a certificate ends, somebody should know: whatever renews it has not done so.
ENDS_SOON: Final = timedelta(days=7)
#: How long something may keep pods away before it counts: quotas are counted, accounts are seen.
PATIENCE: Final = timedelta(seconds=5)
_MAX_NAMED: Final = 3


@dataclass(slots=True, frozen=True)
class Situation:
    """Everything that a status is made of.

    ``spec`` is None if it cannot be used (``spec_problems`` says why). ``lagging`` are the pods
    that do not have the configuration that is wanted, by name; of them ``stubborn`` have said for
    long that they cannot use it.
    """

    name: str
    generation: int
    spec: MqttBrokerSpec | None
    spec_problems: Sequence[str] = ()
    reference_problems: Sequence[Problem] = ()
    foreign: Sequence[ObjectRef] = ()
    #: Whether that is left of a broker of the same name, and goes by itself.
    is_left_over: bool = False
    apply_error: str = ""
    #: Whether it was refused only when it was written, after it had been tried out.
    is_refused_late: bool = False
    edges: Workload = field(default_factory=Workload)
    routers: Workload = field(default_factory=Workload)
    redis: Workload | None = None
    #: Whether the bundled store is there although another one is wanted.
    keeps_store: bool = False
    pods: Sequence[Pod] = ()
    lagging: Mapping[str, Lag] = field(default_factory=dict)
    stubborn: Sequence[str] = ()
    addresses: Addresses = field(default_factory=Addresses)
    certificates: Mapping[str, Sequence[Facts]] = field(default_factory=dict)
    connections: int | None = None

    @property
    def is_paused(self) -> bool:
        """Whether the operator is told to change nothing."""
        return self.spec is not None and self.spec.paused


#: Status, reason, message.
_Verdict = tuple[str, Reason, str]


def status(situation: Situation, before: Mapping[str, Any] | None, now: datetime) -> dict[str, Any]:
    """Return the new status. Times of transitions are kept while a condition stays as it is."""
    situation = replace(
        situation,
        edges=_patient(situation.edges, now),
        routers=_patient(situation.routers, now),
    )
    verdicts: dict[ConditionType, _Verdict] = {
        "Ready": _ready(situation),
        "Progressing": _progressing(situation),
        "Degraded": _degraded(situation),
        "CertificatesReady": _certificates_ready(situation, now),
        "ConfigApplied": _config_applied(situation),
    }
    old = {one["type"]: one for one in (before or {}).get("conditions") or []}
    conditions = []
    for kind, (state, reason, message) in verdicts.items():
        last = old.get(kind, {})
        same = last.get("status") == state and last.get("lastTransitionTime")
        conditions.append(
            Condition.model_validate(
                {
                    "type": kind,
                    "status": state,
                    "reason": reason.value,
                    "message": _cut(message),
                    "lastTransitionTime": last["lastTransitionTime"] if same else _time(now),
                    "observedGeneration": situation.generation,
                }
            )
        )
    found = BrokerStatus.model_validate(
        {
            "observedGeneration": situation.generation,
            "conditions": conditions,
            "address": situation.addresses.first(),
            "listeners": _listeners(situation, before),
            "edges": _pods_status(situation, situation.edges, "edge"),
            "routers": _pods_status(situation, situation.routers, "router"),
            "connections": situation.connections,
        }
    )
    return found.model_dump(by_alias=True, exclude_none=True)


def _cut(message: str) -> str:
    return message if len(message) <= MAX_MESSAGE else f"{message[: MAX_MESSAGE - 1]}…"


def _time(moment: datetime) -> str:
    return moment.strftime("%Y-%m-%dT%H:%M:%SZ")


def _pods_status(it: Situation, workload: Workload, component: names.Component) -> PodsStatus:
    labels = names.selector(it.name, component)
    pods = [pod for pod in it.pods if pod.component == component and is_counted(pod)]
    return PodsStatus.model_validate(
        {
            "desired": workload.desired,
            "ready": workload.ready,
            "updated": workload.updated,
            "configured": sum(pod.name not in it.lagging for pod in pods),
            "selector": ",".join(f"{key}={value}" for key, value in sorted(labels.items())),
        }
    )


def _listeners(situation: Situation, before: Mapping[str, Any] | None) -> list[Any]:
    if situation.spec is None:
        # What runs is what there was before.
        return list((before or {}).get("listeners") or [])
    ports = dict(situation.addresses.ports)
    found = []
    for listener in situation.spec.listeners:
        certificates = situation.certificates.get(listener.name, ())
        ends = min((one.not_after for one in certificates), default=None)
        found.append(
            ListenerStatus.model_validate(
                {
                    "name": listener.name,
                    "protocol": listener.protocol,
                    "port": ports.get(listener.name, listener.exposed_port),
                    "addresses": list(situation.addresses.hosts[:MAX_ADDRESSES]),
                    "certificateNotAfter": None if ends is None else _time(ends),
                }
            )
        )
    return found


# Conditions


def _ready(it: Situation) -> _Verdict:
    edges, routers, redis = it.edges, it.routers, it.redis
    count = f"{_of(edges)} edges and {_of(routers)} routers are ready"
    if redis is not None and redis.ready == 0:
        return (
            "False",
            Reason.STORE_NOT_READY,
            f"The bundled store is not ready{_why(it, 'redis')}; sessions cannot be reached.",
        )
    if routers.ready == 0:
        hint = (
            "" if redis is not None else " A router is ready once it reaches spec.redis.external."
        )
        return (
            "False",
            Reason.ROUTERS_NOT_READY,
            f"{_of(routers)} routers are ready{_why(it, 'router')}.{hint}",
        )
    if edges.exists and edges.desired == 0:
        return (
            "False",
            Reason.SCALED_TO_ZERO,
            "There are no edges, because spec.edge.replicas is 0; sessions are kept.",
        )
    if edges.ready == 0:
        return "False", Reason.EDGES_NOT_READY, f"{_of(edges)} edges are ready{_why(it, 'edge')}."
    if it.addresses.is_pending:
        return (
            "False",
            Reason.ADDRESS_PENDING,
            f"The cloud has not given Service {names.client_service(it.name)} an address yet; its "
            "events say why (kubectl describe service).",
        )
    return "True", Reason.SERVING, f"{count}.{_locked(it.spec)}"


def _locked(spec: MqttBrokerSpec | None) -> str:
    """Say which listeners nobody can use, because there is no way to say who one is."""
    if spec is None or spec.auth.passwords is not None:
        return ""
    found = [
        listener.name
        for listener in spec.listeners
        if not (
            spec.auth.allow_anonymous
            if listener.allow_anonymous is None
            else listener.allow_anonymous
        )
        and (listener.tls is None or listener.tls.identity_as_username == "off")
    ]
    if not found:
        return ""
    return (
        f" Nobody can connect to {', '.join(found)}: anonymous clients are not allowed, and "
        "spec.auth.passwords names no users."
    )


def _of(workload: Workload) -> str:
    return f"{workload.ready} of {workload.desired}"


def _why(it: Situation, component: str) -> str:
    """Return the first trouble of a component's pods, to be put after a statement."""
    found = next((pod for pod in it.pods if pod.component == component and pod.trouble), None)
    if found is not None:
        return f" (pod {found.name}: {found.trouble})"
    workload = {"edge": it.edges, "router": it.routers}.get(component)
    return f" ({workload.trouble})" if workload is not None and workload.trouble else ""


def _progressing(it: Situation) -> _Verdict:
    if it.is_paused:
        return "False", Reason.PAUSED, "spec.paused is true: nothing is changed."
    workloads = _workloads(it)
    stuck = [name for name, workload in workloads if workload.is_stuck]
    if stuck:
        return (
            "False",
            Reason.DEADLINE_EXCEEDED,
            f"The rollout of {' and '.join(stuck)} stands still{_any_trouble(it)}. Old pods "
            f"serve on{', and the bundled store is kept for them' if it.keeps_store else ''}.",
        )
    if _only_waits(it):
        return (
            "True",
            Reason.WAITING_FOR_CERTIFICATES,
            "Pods are made once cert-manager has issued the certificates.",
        )
    blocked = _blocked(it)
    if blocked is not None and not edges_exist(it):
        return "False", blocked[0], blocked[1]
    rolling = [
        f"{name} {workload.ready} of {workload.desired} ready, {workload.updated} new"
        for name, workload in workloads
        if not workload.is_complete
    ]
    if it.keeps_store and blocked is None:
        rolling.append("the bundled store is kept until no router may use it")
    if rolling:
        return "True", Reason.ROLLING_OUT, f"Rolling out: {'; '.join(rolling)}."
    return "False", Reason.COMPLETE, "All pods are as they should be."


def edges_exist(it: Situation) -> bool:
    """Whether there is anything that runs already."""
    return it.edges.exists


def _workloads(it: Situation) -> list[tuple[str, Workload]]:
    found = [("edges", it.edges), ("routers", it.routers)]
    return found if it.redis is None else [("the store", it.redis), *found]


def _any_trouble(it: Situation) -> str:
    found = [pod for pod in it.pods if pod.trouble and not pod.is_ending]
    if found:
        return f": pod {found[0].name}: {found[0].trouble}"
    kept = _kept_away(it)
    return f": {kept[0]}" if kept else ""


def _patient(workload: Workload, now: datetime) -> Workload:
    """Leave out what keeps pods away, unless it lasts."""
    since = workload.trouble_since
    lasts = since is None or now - since >= PATIENCE
    return workload if lasts else replace(workload, trouble="")


def _kept_away(it: Situation) -> list[str]:
    """Return why pods cannot even be made."""
    return [f"{name}: {one.trouble}" for name, one in _workloads(it) if one.trouble]


def _blocked(it: Situation) -> tuple[Reason, str] | None:
    """Return why what is wanted is not applied, and what to do; None if it is."""
    unchanged = " What runs is unchanged." if edges_exist(it) else ""
    if it.spec_problems:
        return (
            Reason.INVALID_SPEC,
            f"The spec cannot be used: {_some(it.spec_problems)}.{unchanged}",
        )
    if it.foreign:
        taken = _some([str(ref) for ref in it.foreign])
        if it.is_left_over:
            return (
                Reason.NAME_TAKEN,
                f"{taken} is left of an MqttBroker of this name that was deleted, and goes after "
                f"it; that is waited for.{unchanged}",
            )
        return (
            Reason.NAME_TAKEN,
            f"{taken} is there already and belongs to something else; delete it, or give the "
            f"MqttBroker another name.{unchanged}",
        )
    blocking = [problem for problem in it.reference_problems if problem.blocking]
    if blocking and not (it.apply_error and _are_pending(blocking)):
        missing = any(one.trouble is not Trouble.INVALID for one in blocking)
        reason = Reason.REFERENCE_MISSING if missing else Reason.REFERENCE_INVALID
        return reason, f"{_some([one.sentence for one in blocking])}.{unchanged}"
    if it.apply_error:
        if it.is_refused_late:
            unchanged = " It passed when it was tried out, so other parts may be applied already."
        return (
            Reason.APPLY_REFUSED,
            f"The API server refuses what follows from the spec: {it.apply_error}.{unchanged}",
        )
    return None


def _some(sentences: Sequence[str]) -> str:
    rest = len(sentences) - _MAX_NAMED
    more = f" (and {rest} more)" if rest > 0 else ""
    return "; ".join(sentences[:_MAX_NAMED]) + more


def _degraded(it: Situation) -> _Verdict:
    blocked = _blocked(it)
    waits = blocked is not None and _only_waits(it)
    if blocked is not None and not waits:
        return "True", blocked[0], blocked[1]
    others = [one for one in it.reference_problems if not one.blocking]
    if others:
        invalid = any(one.trouble is Trouble.INVALID for one in others)
        reason = Reason.REFERENCE_INVALID if invalid else Reason.REFERENCE_MISSING
        return "True", reason, f"{_some([one.sentence for one in others])}."
    failing = [pod for pod in it.pods if pod.trouble and not pod.is_ending]
    if failing:
        named = _some([f"{pod.name}: {pod.trouble}" for pod in failing])
        return "True", Reason.PODS_FAILING, f"Pods do not run: {named}."
    kept = _kept_away(it)
    if kept:
        return "True", Reason.PODS_FAILING, f"Pods cannot be made: {_some(kept)}."
    rejected = _rejected(it)
    if rejected:
        return (
            "True",
            Reason.CONFIG_REJECTED,
            f"Pods go on with an older configuration, because they cannot use the newest: "
            f"{_some(rejected)}. Correct what is named; the pods' logs have more.",
        )
    stuck = [name for name, workload in _workloads(it) if workload.is_stuck]
    if stuck:
        return (
            "True",
            Reason.DEADLINE_EXCEEDED,
            f"The rollout of {' and '.join(stuck)} stands still; the pods' logs and events say "
            "why.",
        )
    return "False", Reason.AS_EXPECTED, "Nothing is wrong."


def _only_waits(it: Situation) -> bool:
    """Whether nothing is wrong but that certificates are still being made."""
    blocking = [problem for problem in it.reference_problems if problem.blocking]
    is_refused = it.spec_problems or it.foreign or it.apply_error
    return not is_refused and bool(blocking) and _are_pending(blocking)


def _are_pending(problems: Sequence[Problem]) -> bool:
    return all(one.trouble is Trouble.PENDING for one in problems)


def _certificates_ready(it: Situation, now: datetime) -> _Verdict:
    if it.spec is None:
        return "Unknown", Reason.INVALID_SPEC, "The spec cannot be used."
    problems = [problem for problem in it.reference_problems if problem.is_certificate]
    for trouble, reason in (
        (Trouble.INVALID, Reason.INVALID),
        (Trouble.MISSING, Reason.MISSING),
        (Trouble.PENDING, Reason.PENDING),
    ):
        found = [problem.sentence for problem in problems if problem.trouble is trouble]
        if found:
            hint = " (kubectl describe certificate)" if trouble is Trouble.PENDING else ""
            return "False", reason, f"{_some(found)}{hint}."
    if not any(listener.tls for listener in it.spec.listeners):
        return "True", Reason.NOT_NEEDED, "No listener has TLS."
    missing = [
        f"listener {one.name}: its certificate has not been issued yet"
        for one in it.spec.listeners
        if one.tls is not None and not it.certificates.get(one.name)
    ]
    if missing:
        return "False", Reason.PENDING, f"{_some(missing)}."
    over = [text for one, text in _ends(it) if one <= now]
    if over:
        return "False", Reason.INVALID, f"{_some(over)}; that is over, and clients refuse it."
    soon = [text for one, text in _ends(it) if one <= now + ENDS_SOON]
    if soon:
        return "True", Reason.ENDS_SOON, f"{_some(soon)}; whatever renews it should have by now."
    ends = [one.not_after for found in it.certificates.values() for one in found]
    first = f" The first ends at {min(ends):%Y-%m-%d %H:%M} UTC." if ends else ""
    return "True", Reason.ISSUED, f"All certificates are valid.{first}"


def _ends(it: Situation) -> Iterator[tuple[datetime, str]]:
    """Yield when each certificate ends, and a sentence that says so."""
    for listener, certificates in it.certificates.items():
        for one in certificates:
            yield (
                one.not_after,
                f"listener {listener}: the certificate of {one.subject} ends at "
                f"{one.not_after:%Y-%m-%d %H:%M} UTC",
            )


def _rejected(it: Situation) -> list[str]:
    """Return which pods have said for long why they cannot use what is wanted.

    Pods that are to be replaced by others may be of a version that cannot.
    """
    replaced = {"edge": it.edges.is_replaced, "router": it.routers.is_replaced}
    return [
        f"{pod.name}: {it.lagging[pod.name].text}"
        for pod in it.pods
        if pod.name in it.stubborn and pod.name in it.lagging and replaced.get(pod.component)
    ]


def _config_applied(it: Situation) -> _Verdict:
    pods = [pod for pod in it.pods if is_counted(pod)]
    late = [pod.name for pod in pods if pod.name in it.lagging]
    count = f"{len(pods) - len(late)} of {len(pods)} pods have it"
    blocked = _blocked(it)
    if blocked is not None:
        return "False", blocked[0], blocked[1]
    if it.is_paused:
        return "Unknown", Reason.PAUSED, "spec.paused is true: nothing is changed."
    if not pods:
        return "False", Reason.NO_PODS, "There are no pods that could have it."
    if late:
        late.sort(key=lambda name: not it.lagging[name].is_problem)
        named = _some([f"{name} {_joined(it.lagging[name])}" for name in late])
        return "False", Reason.APPLYING, f"{count}; {named}."
    if not (it.edges.is_replaced and it.routers.is_replaced):
        return "False", Reason.APPLYING, f"{count}; new ones come."
    return "True", Reason.APPLIED, f"{count}."


def _joined(lag: Lag) -> str:
    return f"cannot use it: {lag.text}" if lag.is_problem else lag.text
