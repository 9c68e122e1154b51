"""What a session is due of a topic that several of its subscriptions match."""

from __future__ import annotations

from itertools import permutations

import pytest

from tidegate.core.overlap import Overlap
from tidegate.mqtt.packets import SubscriptionOptions

PLAIN = SubscriptionOptions(0, subscription_identifier=1)
KEEPS_RETAIN = SubscriptionOptions(1, retain_as_published=True, subscription_identifier=2)
NOT_OWN = SubscriptionOptions(2, no_local=True, subscription_identifier=3)


@pytest.mark.statement("MQTT-3.3.4-2", "MQTT-3.3.4-3", "MQTT-3.3.4-4")
@pytest.mark.parametrize("order", list(permutations([PLAIN, KEEPS_RETAIN, NOT_OWN])))
def test_the_order_of_subscriptions_does_not_matter(order: tuple[SubscriptionOptions, ...]) -> None:
    overlap = Overlap()
    for options in order:
        overlap.include(options)
    assert overlap.qos == 2
    assert overlap.retain_as_published
    assert sorted(overlap.subscription_ids) == [1, 2, 3]
    assert overlap.own_qos == 1
    assert sorted(overlap.own_subscription_ids) == [1, 2]


def test_subscriptions_with_no_local_only_have_nothing_of_the_clients_own() -> None:
    overlap = Overlap()
    overlap.include(NOT_OWN)
    assert (overlap.qos, overlap.own_qos, overlap.own_subscription_ids) == (2, -1, ())
