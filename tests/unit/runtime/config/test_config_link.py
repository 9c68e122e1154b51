"""What the settings of the link refuse."""

from __future__ import annotations

import pytest
from pydantic import ValidationError

from tidegate.runtime.config.model import LinkConfig


def test_a_peer_is_not_given_up_before_it_could_beat_twice() -> None:
    LinkConfig(heartbeat_s=1, timeout_s=2)
    with pytest.raises(ValidationError, match="timeout_s must be at least twice heartbeat_s"):
        LinkConfig(heartbeat_s=1, timeout_s=1.9)
