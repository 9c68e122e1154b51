"""Looks of operators at brokers, out of the audit log: each begins with a read of the broker.

An operator looks at a broker once at a time. So what a look leads to, events included, is written
when the next look at the same broker begins, however slow the machine is.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence

from support.kube.audit import Request
from support.kube.operator_process import OperatorProcess
from support.kube.space import DEADLINE_S, Space
from support.waiting import wait_for

#: Who looks, and at which broker.
Look = tuple[str, str]


def begun(
    operators: Sequence[OperatorProcess], namespace: str, mark: int
) -> Mapping[Look, list[int]]:
    """Return where in the audit log looks at the brokers of a namespace begin, since a mark."""
    users = {operator.user for operator in operators}
    found: dict[Look, list[int]] = defaultdict(list)
    for one in operators[0].plane.audit.since(mark, namespace=namespace):
        if one.user in users and (one.verb, one.resource) == ("get", "mqttbrokers"):
            found[one.user, one.name].append(one.position)
    return found


def until_begun(
    operators: Sequence[OperatorProcess],
    namespace: str,
    brokers: Sequence[str],
    count: int,
    mark: int,
) -> list[list[int]]:
    """Wait until each operator has begun so many looks at each broker since a mark; return where
    they begin, a list for each operator and broker."""
    wanted = [(operator.user, broker) for operator in operators for broker in brokers]

    def look() -> list[list[int]]:
        found = begun(operators, namespace, mark)
        starts = [found.get(one, []) for one in wanted]
        return starts if all(len(one) >= count for one in starts) else []

    return wait_for(look, DEADLINE_S, f"{count} looks at each of {brokers}")


def whole_look(
    operators: Sequence[OperatorProcess], namespace: str, brokers: Sequence[str]
) -> list[Request]:
    """Wait for a look of each operator at each broker, from its beginning to its end, after all
    earlier ones; return what these operators have asked for in the namespace since it began."""
    audit = operators[0].plane.audit
    starts = until_begun(operators, namespace, brokers, 1, audit.mark())
    mark = max(one[0] for one in starts)
    until_begun(operators, namespace, brokers, 2, mark)
    users = {operator.user for operator in operators}
    return [one for one in audit.since(mark, namespace=namespace) if one.user in users]


def writes_of_a_look(operator: OperatorProcess, namespace: str, *brokers: str) -> list[str]:
    """Return in words what an operator writes in a whole look at each broker."""
    asked = whole_look([operator], namespace, brokers)
    return [str(one) for one in asked if one.is_write]


def until_at_rest(operator: OperatorProcess, space: Space, *brokers: str) -> None:
    """Wait until brokers and the controllers are at rest, and the operator has seen that and has
    said all it has to say: it writes nothing of them any more."""
    for broker in brokers:
        space.until_at_rest(broker)
    whole_look([operator], space.name, brokers)
