"""Everything that a cluster promises, played at once: the load of the long test under faults.

Beside the publishers and durable subscribers of ``ClusterLoad.mixed_load``: publishers that move in
mid-exchange, retained values and their readers, wills, clean sessions, a shared group, message
and session expiry.
"""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from typing import Any, Final

from support.cluster import Cluster
from support.cluster_load import ClusterLoad, repeat
from support.history import Kind
from support.load import Subscriber, come_and_go
from support.movers import Mover
from support.mqtt_bytes import V5, V311
from support.profiles import Profile
from support.readers import read_steadily
from support.session_client import Patience
from support.waiting import wait_for_async
from support.will_clients import WillClient

#: Of each kind, for each second of faults, at least: else the run has shown nothing of it.
_LEAST: Final = {
    "messages acknowledged": 5.0,
    "messages to clean sessions": 5.0,
    "wills": 0.5,
    "retained values read": 3.0,
    "takeovers in mid-exchange": 0.3,
}
_MESSAGE_EXPIRY_S: Final = 2
_SESSION_EXPIRY_S: Final = 2
_WILL_DELAY_S: Final = 1
_READ_S: Final = 20.0
_LOOK_S: Final = 0.5
#: What readers of retained values subscribe to.
_RETAINED: Final = ("state/#", "status/#")


class WideLoad(ClusterLoad):
    """See the module's docstring."""

    def __init__(self, cluster: Cluster, seed: int, profile: Profile, **announced: Any) -> None:
        super().__init__(cluster, seed, profile.announced(**announced))
        self.profile = profile

    def play_all(self) -> None:
        """Add everybody."""
        self.mixed_load(rate=8.0)
        self._movers()
        self._retained()
        self._wills()
        self._clean()
        self._shared()
        self._expiring()
        self.wander(repeat(self._look, _LOOK_S))

    async def _look(self) -> None:
        """Judge as it goes, so that nothing takes long at the end: proxies are on this loop."""
        self.checker.violations()
        self.checker.missing()

    # --- clients --------------------------------------------------------------------------------

    def _mover(self, name: str, version: int, **more: Any) -> None:
        chance = self.own_chance()

        def elsewhere() -> tuple[str, int]:
            places = [edge.mqtt for edge in self.cluster.edges]
            others = [place for place in places if str(place[1]) != made.place]
            return chance.choice(others or places)

        rest_s = (0.1, 1.3 * self.profile.lease_s)
        settings = (name, version, elsewhere, self.history, chance)
        made = Mover(*settings, rate=1.0, in_flight=16, rest_s=rest_s, **more)
        self.add_publisher(made)

    def _movers(self) -> None:
        """Durable ones are heard by ``mixed_load``'s subscribers, too."""
        for index, version in enumerate((V5, V311)):
            name = f"mover-{index}"
            self._mover(name, version, topics={f"load/{name}/one": 1, f"load/{name}/two": 2})
            name = f"flit-{index}"
            topics = {f"flit/{name}/{qos}": qos for qos in range(3)}
            self._mover(name, version, topics=topics, durable=False)
        self.subscriber("stay-flit", {"flit/#": 2})

    def _retained(self) -> None:
        for index, version in enumerate((V5, V311)):
            name = f"state-{index}"
            topics = {f"state/{name}/{qos}": qos for qos in range(3)}
            self.publisher(name, topics, rate=3.0, version=version, retain=True)
            for durable in (True, False):
                name = f"state-{'mover' if durable else 'flit'}-{index}"
                topics = {f"state/{name}/{qos}": qos for qos in (1, 2)}
                self._mover(name, version, topics=topics, retain=True, durable=durable)
        for qos in range(3):
            for topic_filter in _RETAINED:
                name = f"reader-{topic_filter.split('/')[0]}-{qos}"
                version = V311 if qos == 1 else V5
                reader = self.subscriber(name, {topic_filter: qos}, version=version, durable=False)
                self.wander(read_steadily(reader, stay_s=(0.2, 1.5)))

    def _wills(self) -> None:
        """Watchers first: each is at an edge of its own while that is well."""
        for index in range(len(self.cluster.edges)):
            filters = {"status/#": 2, "parting/#": 2}
            own = self.cluster.edges[index].mqtt
            chance = self.own_chance()
            self.subscriber(
                f"watcher-{index}",
                filters,
                version=(V5, V311)[index % 2],
                edge=lambda own=own, chance=chance: (  # type: ignore[misc]
                    own if chance.random() < 0.6 else self.any_edge()
                ),
            )
        for index in range(12):
            version, qos = (V5, V311)[index % 2], index // 2 % 3
            root = "parting" if index % 4 == 3 else "status"
            delay_s = _WILL_DELAY_S if version == V5 and index % 4 == 0 else 0
            made = WillClient(
                f"mortal-{index}",
                version,
                self.any_edge,
                self.history,
                self.own_chance(),
                topic=f"{root}/mortal-{index}",
                qos=qos,
                retain=root == "status",
                will_delay_s=delay_s,
                durable=bool(delay_s) or index % 3 == 0,
                patience=Patience(keep_alive_s=1),
            )
            self.add_publisher(made)
            away_s = (0.1, 2 * _WILL_DELAY_S + 1.0)
            self.wander(made.die_steadily(stay_s=(0.3, 3.0), away_s=away_s))

    def _clean(self) -> None:
        for qos in range(3):
            version = V311 if qos == 1 else V5
            for topic_filter in ("load/#", "flit/#"):
                name = f"clean-{topic_filter[:4]}-{qos}"
                self.subscriber(name, {topic_filter: qos}, version=version, durable=False)

    def _shared(self) -> None:
        self.publisher("grouped", {"group/one": 1, "group/two": 2}, rate=10.0)
        for index in range(4):
            # $share is of MQTT 5, and works in 3.1.1.
            version = V311 if index == 1 else V5
            filters = {"$share/g/group/#": 2}
            self.subscriber(f"member-{index}", filters, version=version, wanders=index > 1)

    def _expiring(self) -> None:
        """Messages that expire before their subscriber is back, sessions that do."""
        topics = {f"fresh/{qos}": qos for qos in (1, 2)}
        self.publisher("fresh", topics, rate=4.0, message_expiry_s=_MESSAGE_EXPIRY_S)
        late = self.subscriber("late", {"fresh/#": 2})
        self.wander(come_and_go(late, late.chance, away_s=(0.1, 3.0 * _MESSAGE_EXPIRY_S)))
        self.subscriber("fresh-clean", {"fresh/#": 2}, durable=False)
        for index in range(2):
            mortal = self.subscriber(f"expiring-{index}", {"load/+/one": 2})
            mortal.expiry_s = _SESSION_EXPIRY_S
            self.wander(self._expire(mortal))

    async def _expire(self, client: Subscriber) -> None:
        """Come back before the session's expiry, or long after it."""
        announced = self.checker.world.announced
        surely_s = announced.lease_s + announced.sweep_s + announced.margin_s + 1.0
        while True:
            await client.connected.wait()
            await asyncio.sleep(client.chance.uniform(0.5, 2.0))
            client.leave(politely=client.chance.random() < 0.5)
            away_s = client.chance.choice([0.2, 0.8, _SESSION_EXPIRY_S + surely_s])
            await asyncio.sleep(away_s)
            client.wanted.set()

    # --- course ---------------------------------------------------------------------------------

    async def read_at_the_end(self) -> None:
        """Read every retained value once more, with everything healed and quiet."""
        for topic_filter in _RETAINED:
            name = f"last-{topic_filter.split('/')[0]}"
            reader = self.subscriber(name, {topic_filter: 2}, durable=False)
            await wait_for_async(reader.subscribed.is_set, _READ_S, f"SUBACK for {name}")
            wire = reader.current
            assert wire is not None
            end = time.monotonic() + _READ_S
            while self.checker.behind(name, wire.number) and time.monotonic() < end:
                await asyncio.sleep(0.1)
            self.history.add(Kind.READ, name, wire.number)

    # --- judgement ------------------------------------------------------------------------------

    def report(self, faults: Counter[str]) -> str:
        """What was played, in a few lines."""
        played = ", ".join(f"{count} {what}" for what, count in self.checker.played().items())
        hurt = ", ".join(f"{count} {kind}" for kind, count in sorted(faults.items())) or "none"
        return (
            f"played ({self.profile.name}): {played}; faults: {hurt};"
            f" {self.checker.missed_count} messages missed by clean sessions\n{self.summary()}"
        )

    def judge_amount(self, duration_s: float) -> None:
        """Fail if there was hardly anything of one kind."""
        # With a longer lease everything takes longer while an edge hangs.
        share = 1.0 if self.profile.quick else 0.3
        scarce = {
            what: count
            for what, count in self.checker.played().items()
            if count < _LEAST[what] * duration_s * share
        }
        assert not scarce, f"there was hardly any of this in {duration_s:g} s: {scarce}"
