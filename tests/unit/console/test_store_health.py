"""How soon the overview is without a problem that is over."""

from __future__ import annotations

import asyncio

import pytest

from tidegate.console import store_health
from tidegate.console.store_health import StoreHealth
from tidegate.doctor.findings import Finding, problem
from tidegate.runtime.config.model import Config


async def test_a_store_with_a_problem_is_examined_again_soon(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    examinations = 0
    is_over = asyncio.Event()
    loop = asyncio.get_running_loop()

    def examine(config: Config, is_local: bool) -> list[Finding]:
        nonlocal examinations
        examinations += 1
        if examinations == 1:
            return [problem("store", "store.url: does not answer in time", "start the server")]
        loop.call_soon_threadsafe(is_over.set)
        return []

    monkeypatch.setattr(store_health, "_examine", examine)
    monkeypatch.setattr(store_health, "PROBLEM_INTERVAL_S", 0.0)
    monkeypatch.setattr(store_health, "INTERVAL_S", 3600.0)
    health = StoreHealth(Config)
    running = asyncio.create_task(health.run())
    async with asyncio.timeout(20):
        await is_over.wait()
        while health.findings:
            await asyncio.sleep(0)
    running.cancel()
    assert examinations == 2
