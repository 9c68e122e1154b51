"""Keys of the configuration as Kubernetes spells them. Pure.

Called by the operator's models and by ``convert``, so that both spell them alike.
"""

from __future__ import annotations

from typing import Final

_UNITS: Final = {"s": "seconds", "ms": "milliseconds"}


def camel(name: str) -> str:
    """Return ``deadline_s`` as ``deadlineSeconds``, ``max_qos`` as ``maxQos``."""
    first, *rest = name.split("_")
    if rest:
        rest[-1] = _UNITS.get(rest[-1], rest[-1])
    return first + "".join(part[:1].upper() + part[1:] for part in rest)
