"""Draws the pictures of docs/architecture.md into docs/images: ``make pictures``.

``layers.svg`` is made from the import contract in pyproject.toml, and from the imports of the
operator's sources, so it cannot say what the code does not; a layer without words here is an error.
``publish.svg`` is the path of docs/publish-path.md. Only the standard library is used.
"""

from __future__ import annotations

import ast
import sys
import tomllib
from collections.abc import Callable, Iterator, Sequence
from html import escape
from pathlib import Path
from typing import Final

ROOT: Final = Path(__file__).resolve().parents[1]
IMAGES: Final = ROOT / "docs" / "images"

#: What each package owns, and the library that nothing else imports.
OWNS: Final = {
    "cli": ("command line: serve, edge, router, console, check, convert, doctor, ctl, …", ""),
    "convert": ("mosquitto.conf to a configuration", ""),
    "doctor": ("what to change around a broker", ""),
    "roles": ("composition roots: serve, edge, router, console, supervisor", ""),
    "console": ("the API of the whole broker, its users, its page", "fastapi"),
    "edge": ("listeners, clients, fan-out", "websockets"),
    "router": ("routing, sessions, wills", ""),
    "backup": ("the store in a file", "boto3"),
    "link": ("edge ⇄ router: interfaces, frames", "grpc"),
    "store": ("keys, records, scripts, embedded server", "redis"),
    "record": ("what happened to each client: events, sentences", ""),
    "bans": ("who may not connect", ""),
    "runtime": ("configuration, telemetry, admin HTTP, signals, event loop", "uvloop"),
    "core": ("the broker's rules: topic index, windows, shared subscriptions", ""),
    "mqtt": ("the protocol: packets, properties, codec, connection", ""),
}

# Colours for light pages and, by the reader's preference, for dark ones. The background is part of
# the picture, so that it can be read on any page.
_STYLE: Final = """\
<style>
  svg { --page: #ffffff; --text: #1f2933; --soft: #5b6875; --line: #8795a3; --edge: #c9d2da;
        --box: #eef6f5; --rim: #0f766e; --pure: #f4f1fb; --pure-rim: #7c5cc4;
        --side: #fdf3e7; --side-rim: #b45309; --strong: #0f766e; }
  @media (prefers-color-scheme: dark) {
    svg { --page: #14181d; --text: #e6edf3; --soft: #a3b1bf; --line: #7d8b99; --edge: #333d47;
          --box: #10302d; --rim: #2dd4bf; --pure: #251f3a; --pure-rim: #b39ddb;
          --side: #33240f; --side-rim: #f0a652; --strong: #2dd4bf; }
  }
  text { font-family: system-ui, "Segoe UI", Roboto, "DejaVu Sans", Arial, sans-serif;
         font-size: 14px; fill: var(--text); }
  .page { fill: var(--page); stroke: var(--edge); }
  .name { font-weight: 600; font-size: 16px; }
  .soft { fill: var(--soft); font-size: 13px; }
  .note { fill: var(--soft); font-size: 12px; }
  .middle { text-anchor: middle; }
  .end { text-anchor: end; }
  .box { fill: var(--box); stroke: var(--rim); }
  .pure { fill: var(--pure); stroke: var(--pure-rim); }
  .side { fill: var(--side); stroke: var(--side-rim); }
  .plain { fill: var(--page); stroke: var(--line); }
  .lifeline { stroke: var(--edge); stroke-width: 1.5; }
  .arrow { stroke: var(--line); stroke-width: 1.5; fill: none; }
  .arrow-side { stroke: var(--side-rim); stroke-width: 1.5; stroke-dasharray: 5 4; fill: none; }
  .arrow-strong { stroke: var(--strong); stroke-width: 2; fill: none; }
  .head { fill: var(--line); }
  .head-side { fill: var(--side-rim); }
  .head-strong { fill: var(--strong); }
</style>
"""
_HEAD: Final = (
    '<marker id="{id}" viewBox="0 0 10 10" refX="9" refY="5" markerWidth="8" markerHeight="8" '
    'markerUnits="userSpaceOnUse" orient="auto"><path class="{id}" d="M0 1 9 5 0 9z"/></marker>'
)
_KINDS: Final = ("", "-side", "-strong")


def document(width: int, height: int, title: str, parts: Sequence[str]) -> str:
    """Return a whole SVG file."""
    heads = "".join(_HEAD.format(id=f"head{kind}") for kind in _KINDS)
    body = "\n".join(parts)
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" '
        f'width="{width}" height="{height}" role="img" aria-label="{escape(title)}">\n'
        f"<!-- Made by tools/pictures.py (make pictures); do not edit. -->\n"
        f"<title>{escape(title)}</title>\n{_STYLE}<defs>{heads}</defs>\n"
        f'<rect class="page" x="0.5" y="0.5" width="{width - 1}" height="{height - 1}" rx="10"/>\n'
        f"{body}\n</svg>\n"
    )


def text(x: float, y: float, words: str, css: str = "") -> str:
    """Return a line of text."""
    return f'<text x="{x:g}" y="{y:g}" class="{css}">{escape(words)}</text>'


def box(x: float, y: float, width: float, height: float, css: str) -> str:
    """Return a box with round corners."""
    return f'<rect class="{css}" x="{x:g}" y="{y:g}" width="{width:g}" height="{height:g}" rx="7"/>'


def arrow(path: str, kind: str = "") -> str:
    """Return an arrow along ``path``."""
    return f'<path class="arrow{kind}" d="{path}" marker-end="url(#head{kind})"/>'


# ---- The layers ----


def layers() -> list[list[str]]:
    """Return the packages of the contract, highest layer first."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    contract = next(
        one
        for one in project["tool"]["importlinter"]["contracts"]
        if one["type"] == "layers" and one.get("name") == "Imports point down"
    )
    return [
        [name.strip().removeprefix("tidegate.") for name in layer.split("|")]
        for layer in contract["layers"]
    ]


def pure() -> set[str]:
    """Return the packages that know no I/O and no clock."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    contract = next(
        one
        for one in project["tool"]["importlinter"]["contracts"]
        if one["name"] == "The protocol and the rules know no I/O and no clock"
    )
    return {name.removeprefix("tidegate.") for name in contract["source_modules"]}


def imported_by_the_operator() -> set[str]:
    """Return the packages of tidegate that the operator's sources import."""
    found = set()
    for file in (ROOT / "operator").rglob("*.py"):
        for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
            if isinstance(node, ast.ImportFrom) and node.module:
                names = [node.module]
            elif isinstance(node, ast.Import):
                names = [alias.name for alias in node.names]
            else:
                continue
            found |= {name.split(".")[1] for name in names if name.startswith("tidegate.")}
    return found


_ROW_HEIGHT: Final = 62
_ROW_GAP: Final = 26
_LEFT: Final = 40
_WIDE: Final = 640
_GAP: Final = 24
#: A box that has no room for the whole label of its library.
_NARROW: Final = 250
_OPERATOR_LEFT: Final = 760
_OPERATOR_WIDTH: Final = 210

#: Modules of the operator without I/O, and those with it.
_OPERATOR_PURE: Final = ("spec", "secrets", "render", "plan", "status")
_OPERATOR_RIM: Final = ("kube", "pods", "reconcile", "handlers")


def draw_layers() -> str:
    """Draw which package may import which."""
    rows = layers()
    marked = pure()
    wanted = imported_by_the_operator()
    parts = [
        text(_LEFT, 40, "tidegate", "name"),
        text(
            _LEFT + _WIDE, 40, "a package imports from the rows below it, never upwards", "soft end"
        ),
        text(_OPERATOR_LEFT + _OPERATOR_WIDTH / 2, 40, "tidegate_operator", "name middle"),
    ]
    arrows = []
    top = 58
    for row in rows:
        # The left one of a pair is not what the operator reaches: its arrow would cross the other.
        row.sort(key=wanted.__contains__)
        width = (_WIDE - _GAP * (len(row) - 1)) / len(row)
        for place, name in enumerate(row):
            left = _LEFT + place * (width + _GAP)
            parts += _package(left, top, width, name, "pure" if name in marked else "box")
            if name in wanted:
                y = top + _ROW_HEIGHT / 2
                arrows.append(arrow(f"M{_OPERATOR_LEFT} {y:g}H{left + width + 3:g}", "-side"))
        top += _ROW_HEIGHT + _ROW_GAP
        parts.append(arrow(f"M{_LEFT + _WIDE / 2:g} {top - _ROW_GAP + 3}v{_ROW_GAP - 6}"))
    parts.pop()  # below the last row there is nothing
    bottom = top - _ROW_GAP
    height = bottom - 58
    parts.append(box(_OPERATOR_LEFT, 58, _OPERATOR_WIDTH, height, "side"))
    parts += _operator(58)
    parts += arrows
    parts += _legend(bottom + 34)
    return document(1010, bottom + 56, "Packages of Tidegate in layers", parts)


def _package(left: float, top: float, width: float, name: str, css: str) -> Iterator[str]:
    words, library = OWNS[name]
    yield box(left, top, width, _ROW_HEIGHT, css)
    yield text(left + 16, top + 26, name, "name")
    yield text(left + 16, top + 47, words, "soft")
    if library:
        label = "the only importer of" if width > _NARROW else "imports"
        yield text(left + width - 14, top + 26, f"{label} {library}", "note end")


def _operator(top: float) -> Iterator[str]:
    for name in (*_OPERATOR_PURE, *_OPERATOR_RIM):
        module = ROOT / "operator" / "tidegate_operator" / name
        assert module.is_dir() or module.with_suffix(".py").is_file(), name
    left, width = _OPERATOR_LEFT + 14, _OPERATOR_WIDTH - 28
    middle = left + width / 2
    yield text(middle, top + 30, "from an MqttBroker", "soft middle")
    yield text(middle, top + 48, "to Kubernetes objects", "soft middle")
    # Between the arrows, which end at the rows of edge, runtime and mqtt.
    for y, css, title, names in (
        (top + 66, "pure", "decides", _OPERATOR_PURE),
        (top + 246, "box", "reads and writes", _OPERATOR_RIM),
    ):
        yield box(left, y, width, 44 + 20 * len(names), css)
        yield text(middle, y + 24, title, "name middle")
        for number, name in enumerate(names):
            yield text(middle, y + 48 + 20 * number, name, "soft middle")
    for number, line in enumerate(
        ("imports configuration,", "admin HTTP and metrics;", "the ACL parser; topics")
    ):
        yield text(middle, top + 468 + 18 * number, line, "note middle")


def _legend(y: float) -> Iterator[str]:
    x = float(_LEFT)
    for css, words in (
        ("pure", "pure: no I/O, no clock; time is an argument"),
        ("box", "with I/O"),
        ("side", "the operator, a process of its own; dashed: what it imports"),
    ):
        yield box(x, y - 12, 18, 14, css)
        yield text(x + 26, y, words, "soft")
        x += 60 + len(words) * 6.6


# ---- One PUBLISH ----

#: Who takes part: name, what it is, class of its box.
_PARTIES: Final = (
    ("publisher", "MQTT client", "plain"),
    ("edge A", "the publisher's", "box"),
    ("router", "of this topic", "box"),
    ("store", "Redis or Valkey", "side"),
    ("edge B", "the subscriber's", "box"),
    ("subscriber", "MQTT client", "plain"),
)
_COLUMN: Final = 182
_FIRST: Final = 96

#: From, to, words above the arrow, kind, words below it. One after the other in time.
_STEPS: Final = (
    (0, 1, "PUBLISH, QoS 1", "-strong", "packet identifier 7"),
    (1, 2, "Publish", "", "a frame; takes credit"),
    (2, 3, "append to the queue", "", "one script call"),
    (3, 2, "sequence, location", "", "stored: durable from here"),
    (2, 4, "Push to the edge that holds the session", "", "a frame, with the sequence number"),
    (2, 1, "reason code, credit", "", "settled"),
    (1, 0, "PUBACK", "-strong", "packet identifier 7"),
    (4, 5, "PUBLISH, QoS 1", "-strong", "identifier from the sequence"),
    (5, 4, "PUBACK", "-strong", ""),
    (4, 2, "Complete", "", "gathered with others in a frame"),
    (2, 3, "delete from the queue", "", "one script call"),
)  # fmt: skip
#: After which step, at whom, what is done there.
_NOTES: Final = {
    0: (1, ("mount point, rate, ACL,", "maximum QoS")),
    1: (2, ("routing table: edges and", "sessions of the topic")),
    4: (4, ("window: in order, if it", "has room; else read later")),
}


def draw_publish() -> str:
    """Draw one QoS 1 PUBLISH to a durable session, as a sequence."""
    top = 110.0
    parts: list[str] = []
    y = top + 34
    for number, (source, target, words, kind, below) in enumerate(_STEPS):
        parts += _message(y, source, target, f"{number + 1}  {words}", kind, below)
        y += 50
        if number in _NOTES:
            place, lines = _NOTES[number]
            parts += _note(y - 18, place, lines)
            y += 44
    parts_of_heads: list[str] = []
    for place, (name, words, css) in enumerate(_PARTIES):
        x = _FIRST + place * _COLUMN
        parts_of_heads += [
            f'<path class="lifeline" d="M{x} {top - 4:g}V{y:g}"/>',
            box(x - 66, top - 58, 132, 54, css),
            text(x, top - 34, name, "name middle"),
            text(x, top - 15, words, "soft middle"),
        ]
    foot = (
        "Subscribers without a durable session get the message at once (Deliver), beside step 3.",
        "If no durable session and no shared subscription matches and RETAIN is not set, PUBACK "
        "does not wait for the store.",
        "In tidegate serve, edge and router are one process: steps 2, 5, 6 and 10 are calls.",
    )
    title = "One QoS 1 PUBLISH to a subscriber with a durable session"
    return document(
        _FIRST * 2 + _COLUMN * (len(_PARTIES) - 1),
        int(y + 90),
        title,
        [
            text(24, 34, title, "name"),
            *parts_of_heads,
            *parts,
            *(text(24, y + 30 + 20 * number, line, "soft") for number, line in enumerate(foot)),
        ],
    )


def _message(
    y: float, source: int, target: int, words: str, kind: str, below: str
) -> Iterator[str]:
    start, end = (_FIRST + place * _COLUMN for place in (source, target))
    middle = (start + end) / 2
    step = 1 if end > start else -1
    # Where an arrow passes a lifeline, its words stand in the first column that it crosses.
    if abs(target - source) > 1:
        middle = start + step * _COLUMN * abs(target - source) / 2
    yield _on_page(middle, y - 7, words)
    yield text(middle, y - 7, words, "middle")
    if below:
        yield _on_page(middle, y + 16, below)
        yield text(middle, y + 16, below, "note middle")
    yield arrow(f"M{start + step * 2} {y:g}H{end - step * 3}", kind)


def _on_page(middle: float, y: float, words: str) -> str:
    """Return a patch of background for words that stand on a lifeline."""
    width = len(words) * 6.4
    return (
        f'<rect x="{middle - width / 2:g}" y="{y - 12:g}" width="{width:g}" height="15" '
        'style="fill:var(--page)"/>'
    )


def _note(y: float, place: int, lines: Sequence[str]) -> Iterator[str]:
    x = _FIRST + place * _COLUMN
    yield box(x - 86, y - 4, 172, 18 * len(lines) + 8, "plain")
    for number, line in enumerate(lines):
        yield text(x, y + 12 + 18 * number, line, "note middle")


PICTURES: Final[dict[str, Callable[[], str]]] = {
    "layers.svg": draw_layers,
    "publish.svg": draw_publish,
}


def main() -> int:
    """Write all pictures; return the exit code."""
    IMAGES.mkdir(parents=True, exist_ok=True)
    for name, draw in PICTURES.items():
        (IMAGES / name).write_text(draw(), encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
