"""Which changes of conditions are recorded as events, and which of them are warnings. Pure.

Called by ``reconcile`` with the status before and after.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, Final, Literal

from tidegate_operator.spec.status import Reason

EventType = Literal["Normal", "Warning"]

#: Conditions whose changes are recorded.
_RECORDED: Final = frozenset({"Ready", "Degraded", "CertificatesReady", "StoreReplicated"})
_FAULTY_CERTIFICATES: Final = frozenset({Reason.MISSING, Reason.INVALID, Reason.ENDS_SOON})


def changes(
    before: Mapping[str, Any], status: Mapping[str, Any]
) -> Iterator[tuple[EventType, Mapping[str, Any]]]:
    """Yield the type of event and the condition for each condition whose reason has changed."""
    old = {condition["type"]: condition for condition in before.get("conditions") or []}
    for condition in status["conditions"]:
        last = old.get(condition["type"], {})
        is_same = all(last.get(key) == condition[key] for key in ("status", "reason"))
        if condition["type"] in _RECORDED and condition["status"] != "Unknown" and not is_same:
            yield "Warning" if _is_warning(condition, last) else "Normal", condition


def _is_warning(condition: Mapping[str, Any], last: Mapping[str, Any]) -> bool:
    """A broker that has just been created is not ready yet: that is no warning."""
    kind, value, reason = condition["type"], condition["status"], condition["reason"]
    if kind == "Degraded":
        return bool(value == "True")
    if kind == "CertificatesReady":
        return reason in _FAULTY_CERTIFICATES
    if kind == "StoreReplicated":
        # Replicas of a new store are not in step yet.
        return bool(value == "False" and last.get("status") == "True")
    was_ready = last.get("status") == "True"
    return was_ready and value == "False" and reason != Reason.SCALED_TO_ZERO
