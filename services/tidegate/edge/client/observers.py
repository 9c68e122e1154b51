"""Who is shown messages before clients get them: replays of retained messages, and samples.

Owned by ``ClientRegistry``. Most replays end before a message comes: nothing was retained. So their
filters are put into the index by the first message that comes while there are any.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Protocol

from tidegate.core.topic_index import TopicIndex
from tidegate.mqtt.packets import SubscriptionOptions

if TYPE_CHECKING:
    from tidegate.edge.client.interest import Interest
    from tidegate.mqtt.packets import Publish


class Observer(Protocol):
    """Who is shown the messages of topics before clients get them (see ``Edge.deliver``)."""

    @property
    def filters(self) -> Mapping[str, SubscriptionOptions]:
        """The filters of these topics; ``Observers.forget`` is called for one that is removed."""

    @property
    def connection(self) -> tuple[str, int]:
        """The session's key and the epoch of a connection."""

    def note(self, message: Publish) -> bool:
        """Look at a message; True: this connection is not to be given it besides."""


class Observers:
    """See the module's docstring."""

    __slots__ = ("_index", "_interest", "_not_indexed", "all")

    def __init__(self, interest: Interest) -> None:
        self._interest = interest
        #: Always the same object: ``Edge.deliver`` looks at it without a call.
        self.all: set[Observer] = set()
        self._index: TopicIndex[Observer, tuple[str, SubscriptionOptions]] = TopicIndex()
        self._not_indexed: set[Observer] = set()

    def begin(self, observer: Observer) -> None:
        """Show it the messages that match its filters; this edge is sent all of them."""
        self._interest.hold(observer.filters)
        self.all.add(observer)
        self._not_indexed.add(observer)

    def end(self, observer: Observer) -> None:
        """Show it nothing any more; nothing happens if it has ended before."""
        if observer not in self.all:
            return
        self.all.discard(observer)
        self.forget(observer, observer.filters)
        self._not_indexed.discard(observer)

    def forget(self, observer: Observer, filters: Iterable[str]) -> None:
        """Show it nothing more of these filters of its."""
        if observer not in self._not_indexed:
            for topic_filter in filters:
                self._index.remove(topic_filter, observer)
        self._interest.release(filters)

    def match(self, topic: str) -> list[tuple[Observer, tuple[str, SubscriptionOptions]]]:
        """Return the observers of a topic, once for each of their filters that match."""
        if self._not_indexed:
            for observer in self._not_indexed:
                for topic_filter, options in observer.filters.items():
                    self._index.add(topic_filter, observer, (topic_filter, options))
            self._not_indexed.clear()
        return self._index.match(topic).pairs
