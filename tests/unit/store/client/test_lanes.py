"""Which errors are outages, and which are faults."""

from __future__ import annotations

import pytest
from redis import exceptions as redis_errors

from tidegate.store.api import StoreUnavailable
from tidegate.store.client.lanes import StoreFault, translate


@pytest.mark.parametrize(
    "error",
    [
        OSError(111, "refused"),
        TimeoutError(),
        redis_errors.ConnectionError("gone"),
        redis_errors.TimeoutError("late"),
        redis_errors.BusyLoadingError("loading"),
        redis_errors.ReadOnlyError("replica"),
        redis_errors.OutOfMemoryError("full"),
        redis_errors.AuthenticationError("who are you"),
        redis_errors.ResponseError("MISCONF cannot write its file"),
        redis_errors.ResponseError("BUSY a script runs"),
        redis_errors.ResponseError("NOREPLICAS not enough good replicas"),
        redis_errors.ResponseError("MASTERDOWN link with master is down"),
    ],
)
def test_what_passes_by_itself_is_an_outage(error: Exception) -> None:
    found = translate(error)
    assert isinstance(found, StoreUnavailable)
    assert str(found)


@pytest.mark.parametrize(
    "error", [redis_errors.ResponseError("WRONGTYPE of key"), ValueError("something else")]
)
def test_what_does_not_pass_is_a_fault(error: Exception) -> None:
    assert isinstance(translate(error), StoreFault)


def test_errors_of_the_store_stay_what_they_are() -> None:
    error = StoreUnavailable("down")
    assert translate(error) is error
