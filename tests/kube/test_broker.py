"""A broker's life: it comes, serves, changes, and goes."""

from __future__ import annotations

from support.brokers import spec_of
from support.kube.operator_process import OperatorProcess
from support.kube.space import Space


def test_a_broker_comes_to_serve(operator: OperatorProcess, space: Space) -> None:
    space.put("demo", spec_of())
    space.until_settled("demo")
    print(space.children("demo"), space.broker("demo"))
