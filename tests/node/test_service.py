"""A broker with one port for everything, as users get it with helm and one resource."""

from __future__ import annotations

import pytest

from support.kube.node_product import Broker

pytestmark = [pytest.mark.node, pytest.mark.timeout(300, func_only=True)]


def test_a_broker_is_ready_within_a_minute(broker: Broker) -> None:
    assert broker.ready_s < 60
