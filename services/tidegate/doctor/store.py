"""Examines the store: whether it answers, how fast, what it does when memory or disk is short."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

from tidegate.doctor.findings import Finding, advice, ok, problem, size_text
from tidegate.runtime.config.model import Config
from tidegate.store.api import StoreUnavailable
from tidegate.store.client.failures import StoreNotReady, StoreRefused
from tidegate.store.store_check import check_store
from tidegate.store.store_inspection import StoreFacts, inspect_store

_AREA: Final = "store"
#: Each acknowledged message waits for a round trip.
_SLOW_S: Final = 0.010
_FULL_PERCENT: Final = 80


def examine_store(config: Config) -> tuple[list[Finding], StoreFacts | None]:
    """Return what there is to say about the store, and what its server says if it answers."""
    problems, _ = check_store(config)
    if problems:
        change = "correct it: routers cannot use the store"
        return [problem(_AREA, text, change) for text in problems], None
    try:
        facts = inspect_store(config.store)
    except StoreNotReady as error:
        change = (
            "start the server, or correct `store.url`: until then durable messages wait, and no "
            "client can connect"
        )
        return [problem(_AREA, str(error), change)], None
    except (StoreUnavailable, StoreRefused) as error:
        change = "correct it: routers cannot use the store"
        return [problem(_AREA, str(error), change)], None
    if facts is None:
        text = "the embedded server can be started; it does not run now"
        return [ok(_AREA, text)], None
    return list(_of_server(config, facts)), facts


def _of_server(config: Config, facts: StoreFacts) -> Iterator[Finding]:
    one = " (a cluster: one of its servers is looked at)" if _is_cluster(facts) else ""
    yield ok(_AREA, f"{facts.version} answers at {facts.server}{one}")
    yield _latency(facts)
    yield from _memory(config, facts)
    yield from _persistence(config, facts)
    yield _rights(facts)


def _is_cluster(facts: StoreFacts) -> bool:
    return "cluster" in {facts.info.get("redis_mode"), facts.info.get("server_mode")}


def _latency(facts: StoreFacts) -> Finding:
    median = facts.latencies_s[len(facts.latencies_s) // 2]
    text = (
        f"a round trip takes {median * 1000:.1f} ms, the longest {facts.latencies_s[-1] * 1000:.1f}"
    )
    if median > _SLOW_S:
        change = "move the store nearer: every acknowledged message waits for a round trip"
        return advice(_AREA, text, change)
    return ok(_AREA, text)


def _memory(config: Config, facts: StoreFacts) -> Iterator[Finding]:
    used, limit = facts.number("used_memory"), facts.number("maxmemory")
    if not limit:
        yield advice(
            _AREA,
            f"the server has no limit of memory (maxmemory); it uses {size_text(used)}",
            "set maxmemory below what the machine has: without it the kernel ends the server when "
            "memory is short",
        )
        return
    percent = 100 * used // limit
    text = f"{size_text(used)} of {size_text(limit)} (maxmemory) are used, {percent} %"
    if percent >= 100 - config.store.memory_reserve_percent:
        yield problem(
            _AREA,
            text,
            "give the server more memory, or shorten queues (`limits.max_queued_messages`, "
            "`limits.max_session_expiry_s`): messages are refused now",
        )
    elif percent >= _FULL_PERCENT:
        yield advice(_AREA, text, "give the server more memory before messages are refused")
    else:
        yield ok(_AREA, text)


def _persistence(config: Config, facts: StoreFacts) -> Iterator[Finding]:
    info = facts.info
    if info.get("aof_enabled") != "1":
        change = "set appendonly yes: what is acknowledged is lost when the server restarts"
        if facts.number("connected_slaves"):
            change += ", unless a replica takes over"
        yield problem(_AREA, "the server has no append-only file", change)
    elif info.get("aof_last_write_status", "ok") != "ok":
        yield problem(
            _AREA,
            "the server could not write its append-only file",
            "look at its log and its disk: writes are refused until it can",
        )
    else:
        yield ok(_AREA, f"the append-only file is on; durability is {config.store.durability}")
    if info.get("rdb_last_bgsave_status", "ok") != "ok":
        yield advice(
            _AREA,
            "the server's last snapshot failed",
            "look at its log: memory for the fork (vm.overcommit_memory=1) or disk is short",
        )
    replicas = facts.number("connected_slaves")
    if config.store.durability == "replicated" and replicas < config.store.replicas:
        yield problem(
            _AREA,
            f"{replicas} replicas are connected, durability replicated needs "
            f"{config.store.replicas}",
            "connect them: until then nothing durable is acknowledged",
        )


def _rights(facts: StoreFacts) -> Finding:
    if facts.refused:
        return problem(
            _AREA,
            f"the store's user may not run {', '.join(facts.refused)}",
            f"ACL SETUSER USER {' '.join('+' + name for name in facts.refused)} (docs/storage.md "
            "has the whole line)",
        )
    return ok(_AREA, "the store's user may run the commands that were tried")
