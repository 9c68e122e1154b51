"""A durable session's entries reach the client once and in order, however things interleave.

The model is the whole path: a store with a queue, routers whose pushes travel on several streams
(so they overtake each other) and may get lost, fetches that are answered late, and a client that
acknowledges when it likes. The store drops and expires entries on its own.
"""

from __future__ import annotations

import random

from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from tidegate.core.window import DurableFeed, Window


class FeedAgainstStore(RuleBasedStateMachine):
    """One connection of a durable session that takes up a queue with some entries."""

    def __init__(self) -> None:
        super().__init__()
        self.queue: dict[int, str] = {}
        self.last_seq = 0
        self.pushes: list[int] = []
        self.asked: int | None = None
        self.asked_room = 0
        self.answer: tuple[list[tuple[int, str]], bool] | None = None
        self.sent: list[int] = []
        self.removed: set[int] = set()

    @initialize(
        max_held=st.sampled_from([0, 0, 1, 3, 8]),
        in_flight=st.integers(1, 5),
        queued=st.integers(0, 6),
        released=st.sets(st.integers(1, 6), max_size=2),
        knows_last_seq=st.booleans(),
        is_frank=st.booleans(),
    )
    def connect(
        self,
        max_held: int,
        in_flight: int,
        queued: int,
        released: set[int],
        knows_last_seq: bool,
        is_frank: bool,
    ) -> None:
        self.holds = max_held > 0
        self.is_frank = is_frank  # the caller knows whether an answer is complete
        self.window: Window[str] = Window(in_flight)
        self.feed: DurableFeed[str] = DurableFeed(max_held)
        for _ in range(queued):
            self.append()
        self.pushes.clear()
        self.released = {seq for seq in released if seq <= queued}
        for seq in sorted(self.released):
            self.window.start_released(seq)
        if queued:
            self.feed.resume(self.released, self.last_seq if knows_last_seq else 0)
        else:
            self.feed.begin(self.last_seq)
        self.pump()

    def append(self) -> None:
        self.last_seq += 1
        self.queue[self.last_seq] = f"m{self.last_seq}"
        self.pushes.append(self.last_seq)

    def send(self, entries: list[tuple[int, str]]) -> None:
        for seq, message in entries:
            assert message == f"m{seq}"
            assert not self.sent or seq > self.sent[-1], "in order and once"
            assert seq not in self.released, "PUBREC has come for it"
            assert self.window.room() > 0, "Receive Maximum"
            self.window.start(seq, 1 + seq % 2, message)
            self.sent.append(seq)

    @rule(count=st.integers(1, 3))
    def publish(self, count: int) -> None:
        for _ in range(count):
            self.append()

    @precondition(lambda self: self.pushes)
    @rule(which=st.integers(0, 2))
    def push_arrives(self, which: int) -> None:
        seq = self.pushes.pop(min(which, len(self.pushes) - 1))
        if self.feed.pushed(seq, f"m{seq}", self.window.room(), 10):
            self.send([(seq, f"m{seq}")])
        self.pump()

    @precondition(lambda self: self.pushes)
    @rule()
    def router_dies(self) -> None:
        """Its pushes are lost; the edge notices."""
        self.pushes.pop(0)
        self.resync()

    @rule()
    def resync(self) -> None:
        """A router has died; perhaps it had pushed everything."""
        self.feed.resync()
        self.pump()

    @precondition(lambda self: self.asked is not None and self.answer is None)
    @rule(size=st.integers(1, 4), is_cut=st.booleans())
    def store_reads(self, size: int, is_cut: bool) -> None:
        """Answer an open question; a byte limit may cut the answer."""
        assert self.asked is not None
        rest = [(seq, self.queue[seq]) for seq in sorted(self.queue) if seq > self.asked]
        limit = min(size, self.asked_room) if is_cut else self.asked_room
        self.answer = rest[:limit], self.is_frank and len(rest) <= limit

    def pump(self) -> None:
        """What the edge does after every event."""
        if self.holds:
            self.send(self.feed.take(self.window.room()))
        room = self.window.room()
        after_seq = self.feed.wants_fetch(room)
        if after_seq is not None:
            assert self.asked is None, "two fetches at once"
            assert room > 0
            self.asked, self.asked_room = after_seq, room
            self.feed.fetch_started()

    @precondition(lambda self: self.answer is not None)
    @rule(is_lost=st.booleans())
    def answer_arrives(self, is_lost: bool) -> None:
        assert self.answer is not None
        entries, complete = self.answer
        self.asked = self.answer = None
        if is_lost:
            self.feed.fetch_failed()
        elif self.holds:
            self.send(self.feed.fetched(entries, complete, self.window.room(), self.window.accepts))
        else:
            self.send(self.feed.fetched(entries, complete))
        self.pump()

    @precondition(lambda self: len(self.window) > 0)
    @rule(which=st.integers(0, 10))
    def client_acknowledges(self, which: int) -> None:
        exchanges = self.window.unacknowledged()
        seq, state, _ = exchanges[which % len(exchanges)]
        packet_id = (seq - 1) % 65535 + 1
        if state.value == "puback":
            assert self.window.on_puback(packet_id) == seq
        elif state.value == "pubrec":
            assert self.window.on_pubrec(packet_id, 0) == ("release", seq)
            return
        else:
            assert self.window.on_pubcomp(packet_id) == seq
        self.queue.pop(seq, None)
        self.pump()

    @precondition(lambda self: self.queue)
    @rule(which=st.integers(0, 10))
    def store_drops(self, which: int) -> None:
        """An entry expires, or makes room for a newer one."""
        seq = sorted(self.queue)[which % len(self.queue)]
        if seq not in self.sent:
            del self.queue[seq]
            self.removed.add(seq)

    @invariant()
    def memory_is_bounded(self) -> None:
        if hasattr(self, "feed"):
            assert len(self.feed._early) <= self.feed._max_held
            assert self.feed._held_bytes <= 10 * self.feed._max_held
            if self.feed._early:
                assert self.asked is not None or not self.window.room(), "nobody fills the gap"

    def teardown(self) -> None:
        """With pushes arriving and a client that acknowledges, everything comes out."""
        if not hasattr(self, "feed"):
            return
        for _ in range(2000):
            while self.pushes:
                self.push_arrives(0)
            self.pump()
            if self.asked is not None and self.answer is None:
                self.store_reads(1, True)
            if self.answer is not None:
                self.answer_arrives(False)
            if len(self.window):
                self.client_acknowledges(0)
            elif not self.feed.behind and self.asked is None:
                break
        else:
            raise AssertionError("never comes to rest")
        expected = set(range(1, self.last_seq + 1)) - self.released
        assert expected - set(self.sent) <= self.removed, "lost"
        assert self.feed._held_bytes == 0
        assert not self.feed._early


FeedAgainstStore.TestCase.settings = settings(max_examples=150, stateful_step_count=50)
TestFeedAgainstStore = FeedAgainstStore.TestCase


@settings(max_examples=300)
@given(seed=st.integers(0, 2**32))
def test_long_random_walks_lose_and_repeat_nothing(seed: int) -> None:
    """The same model with many busy steps, where the machine above finds the short failures."""
    generator = random.Random(seed)
    walk = FeedAgainstStore()
    walk.connect(
        max_held=generator.choice([0, 1, 2, 4, 8]),
        in_flight=generator.randint(1, 6),
        queued=generator.choice([0, 0, 3, 6]),
        released={2} if generator.random() < 0.3 else set(),
        knows_last_seq=generator.random() < 0.5,
        is_frank=generator.random() < 0.5,
    )
    # How busy each part is differs from walk to walk.
    weights = [generator.random() ** 2 for _ in range(8)]
    for _ in range(150):
        match generator.choices(range(8), weights)[0]:
            case 0:
                walk.publish(generator.randint(1, 3))
            case 1 if walk.pushes:
                walk.push_arrives(generator.choice([0, 0, 0, 1, 2]))
            case 2 if walk.asked is not None and walk.answer is None:
                walk.store_reads(generator.randint(1, 4), generator.random() < 0.3)
            case 3 if walk.answer is not None:
                walk.answer_arrives(generator.random() < 0.3)
            case 4 | 5 if len(walk.window):
                walk.client_acknowledges(generator.choice([0, 0, 1, 5]))
            case 6 if generator.random() < 0.3:
                if walk.queue:
                    walk.store_drops(generator.randint(0, 10))
            case 7 if generator.random() < 0.2:
                if walk.pushes and generator.random() < 0.5:
                    walk.router_dies()
                else:
                    walk.resync()
        walk.memory_is_bounded()
    walk.teardown()
