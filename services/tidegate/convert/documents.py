"""The YAML files of a conversion, with its findings as comments at the head.

Called by the command line, which writes them.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, Final

import yaml

from tidegate.convert.conversion import Conversion
from tidegate.convert.findings import Finding

_WIDTH: Final = 96


def configuration(conversion: Conversion, source: Path) -> str:
    """Return the configuration file."""
    return _head(conversion, source) + _dump(conversion.config)


def resource(conversion: Conversion, source: Path, documents: Sequence[dict[str, Any]]) -> str:
    """Return documents of Kubernetes, with the findings before them."""
    return _head(conversion, source) + plain(documents)


def plain(documents: Sequence[dict[str, Any]]) -> str:
    """Return documents without comments."""
    return "---\n".join(_dump(document) for document in documents)


def _dump(data: dict[str, Any]) -> str:
    text: str = yaml.safe_dump(data, sort_keys=False, allow_unicode=True, width=_WIDTH)
    return text


def _head(conversion: Conversion, source: Path) -> str:
    lines = [f"Converted from {source} by `tidegate convert`."]
    lines += _list("Not carried over:", conversion.findings.remarks())
    lines += _list("To know:", conversion.findings.notes())
    if conversion.kept:
        lines += ["", "Kept from mosquitto, which does so without being told (after the semicolon:"]
        lines += ["Tidegate's default; delete a key to have it):"]
        lines += [f"- {key}: {reason}" for key, reason in conversion.kept.items()]
    return "".join(f"# {line}".rstrip() + "\n" for line in lines)


def _list(title: str, findings: Iterable[Finding]) -> list[str]:
    lines = [f"- {' '.join(str(finding).split())}" for finding in findings]
    return ["", title, *lines] if lines else []
