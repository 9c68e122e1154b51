"""Random faults of a cluster, one after another, each healed after a random while.

How often and how long is the profile's (``support.profiles``).
Driven by a seeded generator; every fault and every healing is in the history.
"""

from __future__ import annotations

import asyncio
import contextlib
import random
import resource
from collections import Counter
from collections.abc import Callable, Coroutine, Mapping
from pathlib import Path
from typing import Any, Final

from support.cluster import Cluster, Node
from support.history import History, Kind
from support.profiles import Profile
from support.wall_clock import WallClock

Fault = Callable[[], Coroutine[Any, Any, None]]

#: How late every chunk of bytes is on a slow path.
_DELAY_S: Final = 0.15
#: What a fault's share of all is.
_WEIGHTS: Final = {
    "kill": 4,
    "pause": 3,
    "cut": 2,
    "blackhole": 2,
    "slow": 1,
    "terminate": 1,
    "store": 1,
    "hang": 2,
}
#: The same, for faults that only a long run has.
_LONG_WEIGHTS: Final = _WEIGHTS | {"roll back": 0.4, "descriptors": 1, "clock": 2}
#: How old the copy is that a store goes back to.
_COPY_S: Final = (0.5, 8.0)
#: How far a wall clock steps.
_STEPS_S: Final = (30, -30, 3600, -3600)
#: Open files that a process has left when they are exhausted.
_SPARE: Final = 2


class Chaos:
    """Hurts one thing at a time; several may be hurt at once, but none twice."""

    def __init__(
        self,
        cluster: Cluster,
        history: History,
        chance: random.Random,
        profile: Profile,
        clocks: Mapping[str, WallClock],
    ) -> None:
        """``clocks`` are those of processes that have their own, by name."""
        self._clocks = clocks
        self._cluster = cluster
        self._history = history
        self._chance = chance
        self._profile = profile
        self._hurt: set[str] = set()
        self._healing: set[asyncio.Task[None]] = set()
        self.done: Counter[str] = Counter()

    async def run(self, duration_s: float) -> None:
        """Go on for so long, then let everything that was begun be healed."""
        loop = asyncio.get_running_loop()
        end = loop.time() + duration_s
        async with asyncio.TaskGroup() as group:
            while loop.time() < end:
                fault = self._choose()
                if fault is not None:
                    group.create_task(fault)
                await asyncio.sleep(self._profile.every_s)

    def _choose(self) -> Coroutine[Any, Any, None] | None:
        profile = self._profile
        weights = _LONG_WEIGHTS if profile.everything else _WEIGHTS
        kind = self._chance.choices(list(weights), list(weights.values()))[0]
        # Drawn whatever the state is, so that a seed gives the same plan as nearly as can be.
        node = self._chance.choice(self._cluster.nodes)
        pair = self._chance.choice(sorted(self._cluster.proxies) or [("", "")])
        length = self._chance.random()
        if kind in {"cut", "blackhole", "slow"}:
            if not pair[0] or "/".join(pair) in self._hurt:
                return None
            return self._cut(kind, pair, _between(profile.cut_s, length))
        if kind == "clock":
            # Whatever else the process suffers meanwhile.
            clock = self._clocks.get(node.name)
            step_s = _STEPS_S[int(len(_STEPS_S) * length)]
            return None if clock is None else self._step(node.name, clock, step_s)
        target = "store" if kind in {"store", "hang", "roll back"} else node.name
        if target in self._hurt:
            return None
        match kind:
            case "kill" | "terminate":
                return self._end(kind, node, 0.1 + 1.5 * length)
            case "pause":
                return self._pause(node, profile.lease_s * _between(profile.pause, length))
            case "hang":
                return self._hang(_between(profile.store_s, length))
            case "roll back":
                return self._roll_back(_between(_COPY_S, length))
            case "descriptors":
                return self._exhaust(node, _between(profile.cut_s, length))
            case _:
                return self._store(0.2 + 1.5 * length)

    async def _end(self, kind: str, node: Node, away_s: float) -> None:
        """SIGKILL or SIGTERM, and a start after a while."""
        self._begin(kind, node.name, f"{kind}, for {away_s:.1f} s")
        if kind == "kill":
            await asyncio.to_thread(node.kill)
        else:
            await asyncio.to_thread(node.stop)
        await asyncio.sleep(away_s)
        await asyncio.to_thread(node.start)
        self._finish(node.name, "started again")

    async def _pause(self, node: Node, length_s: float) -> None:
        self._begin("pause", node.name, f"SIGSTOP, for {length_s:.1f} s")
        node.pause()
        await asyncio.sleep(length_s)
        node.resume()
        self._finish(node.name, "SIGCONT")

    async def _cut(self, kind: str, pair: tuple[str, str], length_s: float) -> None:
        name = "/".join(pair)
        proxy = self._cluster.proxies[pair]
        self._begin(kind, name, f"{kind}, for {length_s:.1f} s")
        if kind == "cut":
            proxy.cut()
        elif kind == "blackhole":
            proxy.blackhole()
        else:
            proxy.delay_s = _DELAY_S
        await asyncio.sleep(length_s)
        proxy.delay_s = 0.0
        proxy.heal()
        self._finish(name, "healed")

    async def _store(self, away_s: float) -> None:
        self._begin("store", "store", f"kill, for {away_s:.1f} s")
        store = self._cluster.store
        await asyncio.to_thread(store.kill)
        await asyncio.sleep(away_s)
        await asyncio.to_thread(store.start)
        self._finish("store", "started again")

    async def _hang(self, length_s: float) -> None:
        self._begin("hang", "store", f"SIGSTOP, for {length_s:.1f} s")
        self._cluster.store.pause()
        await asyncio.sleep(length_s)
        self._cluster.store.resume()
        self._finish("store", "SIGCONT")

    async def _roll_back(self, age_s: float) -> None:
        """Kill the store and give it back what it had a while ago."""
        store, loop = self._cluster.store, asyncio.get_running_loop()
        kept_at = loop.time()
        copy = await asyncio.to_thread(store.keep_copy)
        self._hurt.add("store")
        await asyncio.sleep(age_s)
        self._begin("roll back", "store", f"has what it had {age_s:.1f} s ago")
        await asyncio.to_thread(store.go_back, copy)
        self._history.add(Kind.WENT_BACK, "store", seconds=loop.time() - kept_at)
        self._finish("store", "started again")

    async def _exhaust(self, node: Node, length_s: float) -> None:
        """Let a process have as many open files as it has now, and a few more."""
        self._begin("descriptors", node.name, f"exhausted, for {length_s:.1f} s")
        pid = node.pid
        before = resource.prlimit(pid, resource.RLIMIT_NOFILE)
        used = sum(1 for _ in Path(f"/proc/{pid}/fd").iterdir())
        resource.prlimit(pid, resource.RLIMIT_NOFILE, (used + _SPARE, before[1]))
        await asyncio.sleep(length_s)
        with contextlib.suppress(ProcessLookupError):
            resource.prlimit(pid, resource.RLIMIT_NOFILE, before)
        self._finish(node.name, "may open files again")

    async def _step(self, name: str, clock: WallClock, step_s: int) -> None:
        """Step a wall clock, and back. It counts as no fault: clients must not notice."""
        self.done["clock"] += 1
        clock.step(step_s)
        self._history.add(Kind.STEPPED, name, note=f"by {step_s} s")
        await asyncio.sleep(1.5 * self._profile.lease_s)
        clock.step(0)
        self._history.add(Kind.STEPPED, name, note="back")

    def _begin(self, kind: str, target: str, note: str) -> None:
        self._hurt.add(target)
        self.done[kind] += 1
        self._history.fault(target, note, self._place(target))

    def _finish(self, target: str, note: str) -> None:
        self._hurt.discard(target)
        self._history.healed(target, note, self._place(target))

    def _place(self, target: str) -> str:
        """The port of the edge whose clients notice; none: everybody may."""
        name = target.partition("/")[0]
        ports = {edge.name: str(edge.mqtt[1]) for edge in self._cluster.edges}
        return ports.get(name, "")


def _between(bounds: tuple[float, float], part: float) -> float:
    shortest, longest = bounds
    return shortest + (longest - shortest) * part
