"""The operations of a frame: their order, unknown kinds, and what a fault in one of them costs."""

from __future__ import annotations

from typing import Any

import pytest

from tidegate.link.frames import OperationTable
from tidegate.link.v1 import link_pb2 as pb
from tidegate.runtime.telemetry.counters import Counters


class _Sender:
    name = "router-1"


def _frame() -> pb.RouterFrame:
    return pb.RouterFrame(
        operations=[
            pb.RouterOperation(echo=pb.Echo(id=1)),
            pb.RouterOperation(leaving=pb.Leaving()),  # no function is registered for it
            pb.RouterOperation(),  # of a newer version: its kind is unknown
            pb.RouterOperation(applied=pb.Applied(id=2)),
            pb.RouterOperation(echo=pb.Echo(id=3)),
        ]
    )


def test_operations_are_handled_in_their_order_and_unknown_ones_are_skipped() -> None:
    handled: list[tuple[str, int]] = []
    sender, counters = _Sender(), Counters()

    def echo(by: _Sender, operation: Any) -> None:
        assert by is sender
        handled.append(("echo", operation.id))

    table: OperationTable[_Sender] = OperationTable(counters, {"echo": echo})
    table.on("applied", lambda _by, operation: handled.append(("applied", operation.id)))
    table.dispatch(sender, _frame().operations)
    assert handled == [("echo", 1), ("applied", 2), ("echo", 3)]
    assert not counters.internal_errors


def test_a_fault_in_one_operation_is_counted_and_the_others_are_handled(
    caplog: pytest.LogCaptureFixture,
) -> None:
    handled: list[int] = []

    def fail(_by: _Sender, _operation: Any) -> None:
        raise ValueError("a fault")

    counters = Counters()
    table: OperationTable[_Sender] = OperationTable(
        counters, {"echo": fail, "applied": lambda _by, operation: handled.append(operation.id)}
    )
    table.dispatch(_Sender(), _frame().operations)
    assert handled == [2]
    assert counters.internal_errors == 2
    assert {record.__dict__["peer"] for record in caplog.records} == {"router-1"}


def test_a_fault_in_an_essential_operation_is_raised() -> None:
    def fail(_by: _Sender, _operation: Any) -> None:
        raise ValueError("a fault")

    counters = Counters()
    table: OperationTable[_Sender] = OperationTable(counters, {"echo": fail}, {"echo"})
    with pytest.raises(ValueError, match="a fault"):
        table.dispatch(_Sender(), _frame().operations)
    assert not counters.internal_errors
