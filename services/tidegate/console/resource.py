"""The MqttBroker that the console belongs to, as the operator says it in a file of the pod.

Read at each request for the overview. Without the file, or with one that cannot be read, there is
nothing to show: the operator says elsewhere what is wrong.
"""

from __future__ import annotations

import json
import logging
from datetime import datetime
from pathlib import Path
from typing import Any, Final

from tidegate.console.models.overview import Condition, Resource

log = logging.getLogger(__name__)

#: The operator's annotation is shorter by far.
MAX_BYTES: Final = 262_144


def read_resource(file: Path | None) -> Resource | None:
    """Return what the file says; None without one, and before the operator has written it."""
    if file is None:
        return None
    try:
        with file.open("rb") as stream:
            content = stream.read(MAX_BYTES)
        return _parsed(json.loads(content)) if content.strip() else None
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        log.debug("conditions not read", extra={"path": str(file), "reason": str(error)})
        return None


def _parsed(found: dict[str, Any]) -> Resource:
    return Resource(
        name=found["name"],
        namespace=found["namespace"],
        generation=found["generation"],
        observed_generation=found["observedGeneration"],
        seen_at=_seconds(found["lastSeen"]),
        conditions=[
            Condition(
                type=one["type"],
                status=one["status"],
                reason=one["reason"],
                message=one["message"],
                changed_at=_seconds(one["lastTransitionTime"]),
            )
            for one in found["conditions"]
        ],
    )


def _seconds(rfc3339: str) -> float | None:
    return datetime.fromisoformat(rfc3339).timestamp() if rfc3339 else None
