"""Examines the limits of the machine or container: open files, backlog, memory, processors."""

from __future__ import annotations

import os
import resource
from collections.abc import Iterator
from pathlib import Path
from typing import Final

from tidegate.doctor.findings import Finding, advice, ok, problem, size_text
from tidegate.edge.auth.password_verifier import thread_count
from tidegate.runtime.config.config_file import Role
from tidegate.runtime.config.model import Config
from tidegate.runtime.process.descriptors import LOW_LIMIT, reserve_of
from tidegate.runtime.process.memory import available_memory

_AREA: Final = "limits"
_MANY_FILES: Final = 65_536
_LEAST_MEMORY_BYTES: Final = 256 << 20
_ARGON2_BYTES: Final = 64 << 20
_KERNEL: Final = Path("/proc/sys")


def examine_limits(config: Config, role: Role) -> Iterator[Finding]:
    """Yield what would stop the broker from taking as many clients as it is to."""
    if role in {"serve", "edge"}:
        yield _open_files(config)
        yield from _backlog(config)
    yield from _memory(config, role)
    if role == "serve" and config.store.url is None:
        yield from _for_embedded()
    processes, cores = config.cluster.edges + config.cluster.routers, os.cpu_count() or 1
    if role == "serve" and processes > 2 * cores:
        yield advice(
            _AREA,
            f"{processes} processes (`cluster`) share {cores} processors",
            "more edges than processors bring nothing",
        )


def _open_files(config: Config) -> Finding:
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if hard == resource.RLIM_INFINITY:
        return ok(_AREA, "open files are not limited")
    connections = hard - reserve_of(hard)
    wanted = config.limits.max_connections or sum(
        listener.max_connections for listener in config.listeners
    )
    text = f"{hard} open files are allowed (hard limit): about {connections} connections"
    change = "raise it: LimitNOFILE= of the systemd unit, ulimit -Hn, or the container's runtime"
    if hard < LOW_LIMIT or connections < wanted:
        wanted_text = f", and {wanted} are configured" if connections < wanted else ""
        return problem(_AREA, text + wanted_text, change)
    if hard < _MANY_FILES:
        return advice(_AREA, text, f"{change}, if there are to be more clients")
    return ok(_AREA, text)


def _backlog(config: Config) -> Iterator[Finding]:
    allowed = _kernel_number("net/core/somaxconn")
    wanted = max((listener.backlog for listener in config.listeners), default=0)
    if allowed is None or not wanted:
        return
    if allowed < wanted:
        yield advice(
            _AREA,
            f"the kernel lets {allowed} connections wait (net.core.somaxconn), {wanted} are "
            "configured (`listeners[].backlog`)",
            f"sysctl -w net.core.somaxconn={wanted}: when many clients come back at once, the "
            "others have to try again",
        )
    else:
        yield ok(_AREA, f"{wanted} connections may wait (net.core.somaxconn {allowed})")


def _memory(config: Config, role: Role) -> Iterator[Finding]:
    memory = available_memory()
    if not memory:
        return
    text = f"{size_text(memory)} of memory (machine or container)"
    threads = thread_count(config.auth.password_threads)
    hashes = threads * _ARGON2_BYTES if role in {"serve", "edge"} else 0
    embedded = config.store.max_memory_bytes if role == "serve" else None
    if memory < _LEAST_MEMORY_BYTES + hashes:
        yield advice(
            _AREA,
            text,
            f"give it more: argon2id hashes alone may take {size_text(hashes)} "
            "(`auth.password_threads`)",
        )
    elif embedded is not None and embedded > memory * 3 // 4:
        yield problem(
            _AREA,
            f"{text}, and the embedded store may use {size_text(embedded)} "
            "(`store.max_memory_bytes`)",
            "lower it to half of the memory: the kernel ends processes when memory is short",
        )
    else:
        yield ok(_AREA, text)


def _for_embedded() -> Iterator[Finding]:
    if _kernel_number("vm/overcommit_memory") == 0:
        yield advice(
            _AREA,
            "vm.overcommit_memory is 0",
            "sysctl -w vm.overcommit_memory=1: otherwise the embedded store cannot rewrite its "
            "file when more than half of the memory is used",
        )


def _kernel_number(name: str) -> int | None:
    try:
        return int((_KERNEL / name).read_text())
    except (OSError, ValueError):
        return None
