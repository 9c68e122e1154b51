"""A future of what is made of another one's result."""

from __future__ import annotations

import asyncio

import pytest

from support.virtual_time import turns
from tidegate.runtime.process.futures import then


def _source() -> asyncio.Future[int]:
    return asyncio.get_running_loop().create_future()


async def test_it_has_what_is_made_of_the_result() -> None:
    source = _source()
    made = then(source, str)
    source.set_result(7)
    assert await made == "7"


async def test_it_fails_as_the_other_one_does() -> None:
    source = _source()
    made = then(source, str)
    source.set_exception(KeyError("gone"))
    with pytest.raises(KeyError, match="gone"):
        await made


async def test_it_fails_as_what_makes_the_result_does() -> None:
    source = _source()
    made = then(source, lambda result: result // 0)
    source.set_result(7)
    with pytest.raises(ZeroDivisionError):
        await made


async def test_nothing_is_made_for_who_does_not_wait_any_more() -> None:
    source = _source()
    results: list[int] = []
    made = then(source, results.append)
    made.cancel()
    source.set_result(7)
    await turns()
    assert not results
    assert source.result() == 7, "the other one has gone on"


async def test_it_is_cancelled_with_the_other_one() -> None:
    source = _source()
    made = then(source, str)
    source.cancel()
    with pytest.raises(asyncio.CancelledError):
        await made
