"""Cost of the topic index as subscriptions grow: `python bench/bench_topic_index.py`.

Prints the cost of a cached match, of an uncached one against 1,000 and 1,000,000 subscriptions
(and the ratio, which is to stay below 3), of changes, and the memory a subscription takes.
"""

from __future__ import annotations

import gc
import random
import timeit
import tracemalloc
from functools import partial
from statistics import median

from tidegate.core.retained_index import RetainedIndex
from tidegate.core.topic_index import TopicIndex


def filters(count: int) -> list[str]:
    """Make subscriptions as a router client has them: 3 of 5 exact, 2 of 5 with wildcards."""
    made = ["#", "fleet/+/alarm/#", "+/+/state"]
    number = 0
    while len(made) < count:
        device = f"fleet/d{number}"
        made += [
            f"{device}/cmd",
            f"{device}/config",
            f"{device}/ota",
            f"{device}/+/set",
            f"{device}/rpc/#",
        ]
        number += 1
    return made[:count]


def topics(index_size: int, count: int, seed: int) -> list[str]:
    """Make topic names of devices all over the index."""
    devices = max(1, index_size // 5 - 1)
    generator = random.Random(seed)
    names = ("cmd", "lamp/set", "rpc/1/call", "alarm/high")
    return [
        f"fleet/d{generator.randrange(devices)}/{names[number % len(names)]}"
        for number in range(count)
    ]


def build(size: int) -> TopicIndex[int, int]:
    """Fill an index with ``size`` subscriptions of as many clients."""
    index: TopicIndex[int, int] = TopicIndex()
    for key, topic_filter in enumerate(filters(size)):
        index.add(topic_filter, key, 0)
    return index


def uncached_ns(index: TopicIndex[int, int], names: list[str]) -> float:
    """Time of one match that is not in the cache, nanoseconds."""
    # A filter that begins with a wildcard drops every cached result.
    index.add("+/never", -1, 0)
    index.remove("+/never", -1)
    return timeit.timeit(lambda: [index.match(name) for name in names], number=1) / len(names) * 1e9


def memory() -> None:
    """Print bytes per subscription, strings of the filters not counted."""
    made = filters(100_000)
    for label, chosen in (
        ("exact", [f for f in made if "+" not in f and "#" not in f]),
        ("wildcard", [f for f in made if "+" in f or "#" in f]),
    ):
        gc.collect()
        tracemalloc.start()
        index: TopicIndex[int, int] = TopicIndex()
        for key, topic_filter in enumerate(chosen):
            index.add(topic_filter, key, 0)
        print(f"memory, {label}: {tracemalloc.get_traced_memory()[0] / len(chosen):.0f} B each")
        tracemalloc.stop()


def measure(sizes: tuple[int, ...]) -> None:
    """Print what indexes of these sizes cost, and the ratio of the last to the first."""
    indexes = []
    for size in sizes:
        started = timeit.default_timer()
        indexes.append(build(size))
        print(f"{size:>9,}: add {(timeit.default_timer() - started) / size * 1e6:.2f} us each")
    gc.freeze()
    # In turn, so that what else the machine does meets all sizes; names that none has seen in
    # this round, so that the processor's caches are as cold as they would be.
    rounds: list[list[float]] = [[] for _ in sizes]
    for seed in range(15):
        for size, index, times in zip(sizes, indexes, rounds, strict=True):
            times.append(uncached_ns(index, list(dict.fromkeys(topics(size, 5_000, seed)))))
    for size, index, times in zip(sizes, indexes, rounds, strict=True):
        print(f"{size:>9,}: uncached {min(times):.0f} ns best, {median(times):.0f} ns median")
        hit = min(timeit.repeat(partial(index.match, "fleet/d7/cmd"), number=200_000, repeat=5))
        changed = min(timeit.repeat(partial(churn, index), number=20_000, repeat=3))
        print(
            f"{size:>9,}: cached {hit / 200_000 * 1e9:.0f} ns, "
            f"wildcard add + remove {changed / 20_000 * 1e6:.2f} us"
        )
    print(
        f"uncached, largest to smallest: {min(rounds[-1]) / min(rounds[0]):.2f} best, "
        f"{median(rounds[-1]) / median(rounds[0]):.2f} median"
    )


def churn(index: TopicIndex[int, int]) -> None:
    """Subscribe and unsubscribe once."""
    index.add("fleet/d7/+/x", -1, 0)
    index.remove("fleet/d7/+/x", -1)


def measure_retained() -> None:
    """Print what looking up retained topics costs."""
    retained = RetainedIndex()
    for device in range(100_000):
        for name in ("state", "config", "version"):
            retained.add(f"fleet/d{device}/{name}")
    for topic_filter in ("#", "fleet/+/state", "fleet/d77/+", "fleet/d77/state"):
        lookup = partial(retained.match, topic_filter)
        took = min(timeit.repeat(lookup, number=1, repeat=3))
        print(f"retained {topic_filter}: {len(lookup())} in {took * 1e3:.3f} ms")


def main() -> None:
    """Run everything and print it."""
    memory()
    measure((1_000, 1_000_000))
    measure_retained()


if __name__ == "__main__":
    main()
