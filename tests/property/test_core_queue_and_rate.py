"""The memory queue accounts for every message; the token bucket never grants above its rate."""

from __future__ import annotations

from typing import Literal

from hypothesis import given
from hypothesis import strategies as st

from tidegate.core.rate import TokenBucket
from tidegate.core.window import MemoryQueue

_POLICIES: st.SearchStrategy[Literal["drop_newest", "drop_oldest"]] = st.sampled_from(
    ["drop_newest", "drop_oldest"]
)


@given(
    policy=_POLICIES,
    max_messages=st.integers(1, 5),
    max_bytes=st.integers(1, 40),
    steps=st.lists(
        st.one_of(st.none(), st.tuples(st.integers(0, 50), st.integers(0, 9))), max_size=40
    ),
)
def test_what_is_offered_is_taken_waits_or_was_dropped(
    policy: Literal["drop_newest", "drop_oldest"],
    max_messages: int,
    max_bytes: int,
    steps: list[tuple[int, int] | None],
) -> None:
    """A step takes a message, or offers one of a size that expires after some steps (0: never)."""
    queue: MemoryQueue[int] = MemoryQueue(max_messages, max_bytes, policy)
    offered = taken = dropped = last = 0
    alive: dict[int, int] = {}
    for number, step in enumerate(steps, 1):
        if step is None:
            message = queue.take()
            if message is not None:
                assert message > last, "in order"
                last = message
                taken += 1
                del alive[message]
        else:
            size, lasts = step
            offered += 1
            expires_at = number + lasts if lasts else 0
            reason = queue.offer(number, size, expires_at, number)
            assert (reason is None) == (queue.last_dropped_count == 0)
            expired = {old for old, until in alive.items() if until and until <= number}
            assert set(queue.last_expired) == expired, "nothing expired stays, nothing else goes"
            alive[number] = expires_at
            for gone in [*queue.last_expired, *(queue.last_dropped if reason else ())]:
                del alive[gone]
            dropped += queue.last_dropped_count + len(queue.last_expired)
        assert len(queue) <= max_messages
        assert 0 <= queue.size_bytes <= max_bytes
        assert offered == taken + len(queue) + dropped


@given(
    rate=st.integers(1, 100),
    burst=st.integers(1, 50),
    steps=st.lists(st.tuples(st.integers(0, 2000), st.integers(1, 10)), max_size=40),
)
def test_no_more_is_granted_than_burst_and_rate_allow(
    rate: int, burst: int, steps: list[tuple[int, int]]
) -> None:
    bucket = TokenBucket(rate, burst, 5.0)
    granted, now_s = 0, 5.0
    for after_ms, amount in steps:
        now_s += after_ms / 1000
        if bucket.take(now_s, amount):
            granted += amount
        elif amount <= burst:
            assert bucket.take(now_s + bucket.wait_s(amount) + 1e-6, amount)
            granted += amount
            now_s = bucket._at_s
        assert granted <= burst + rate * (now_s - 5.0) + 1e-6
