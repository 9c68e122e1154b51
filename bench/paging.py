"""Measure what the console costs edges: latency of clients while somebody pages through them all.

One broker of two edges and two routers with 10,000 connected and 100,000 offline clients and 10,000
retained messages, as ``tidegate serve`` runs it. A calm exchange of messages is played with
``mqload`` again and again, in turn: with nothing else (calm); while somebody looks at the console,
whose pages ask for the first page of one thing after the other, two in a second (person); while a
caller of the console's API reads pages of offline clients, which edges are not asked for, as fast
as they come (store); while it so reads everything that edges answer, page after page and search
after search (edges). What the machine's cores are short of makes store and edges slower alike; what
is worse in edges alone is theirs. Before that each kind of request is made some times by itself:
CPU time of the console, of the edges and of the store; and an edge in this process, with as many
clients, says how long its event loop is taken in one piece.

    python bench/paging.py [--connected 10000] [--offline 100000] [--rounds 5] [--seconds 10]
                           [--kinds calm,person]

Writes one file of raw results, with a table in it, to bench/results.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
import time
from dataclasses import asdict
from pathlib import Path
from typing import Any, Final

ROOT = Path(__file__).resolve().parents[1]
# Neither is installed, and PYTHONSAFEPATH leaves out the directory of the script.
sys.path[:0] = [str(ROOT / "bench"), str(ROOT / "tests")]

from measure.brokers import Checkout  # noqa: E402  # the path has to be there first
from measure.figures import order  # noqa: E402
from measure.fleet import Fleet, Size  # noqa: E402
from measure.load import compile_mqload  # noqa: E402
from measure.longest import longest_callbacks  # noqa: E402
from measure.paging import OF_EDGES, OF_THE_STORE, PERSON, Caller, Play, Request  # noqa: E402
from measure.results import about  # noqa: E402

KINDS: Final = {
    "calm": Play(),
    "person": PERSON,
    "store": Play(OF_THE_STORE),
    "edges": Play(OF_EDGES),
}
#: How often each request is made by itself.
TIMES: Final = 20


def kinds(text: str) -> list[str]:
    """Read which kinds are played. Raises ArgumentTypeError."""
    chosen = text.split(",")
    if unknown := [name for name in chosen if name not in KINDS]:
        raise argparse.ArgumentTypeError(f"{', '.join(unknown)}: not one of {', '.join(KINDS)}")
    return chosen


def options() -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--connected", type=int, default=10_000)
    parser.add_argument("--offline", type=int, default=100_000)
    parser.add_argument("--retained", type=int, default=10_000)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=10.0, help="of each play")
    parser.add_argument("--rate", type=int, default=500, help="messages in a second")
    parser.add_argument(
        "--kinds", type=kinds, default=list(KINDS), metavar="A,B", help=f"of {', '.join(KINDS)}"
    )
    parser.add_argument("--checkout", type=Path, default=ROOT, help="what is measured, with .venv")
    parser.add_argument("--out", type=Path, default=ROOT / "bench" / "results", metavar="DIR")
    return parser.parse_args()


def cost_of(fleet: Fleet, caller: Caller, request: Request) -> dict[str, float]:
    """Make a request some times; return CPU time of each of its processes for one, in ms."""
    caller.get(request.path)
    before = fleet.cpu_s()
    for _ in range(TIMES):
        caller.get(request.path)
    after = fleet.cpu_s()
    return {name: 1000 * (after[name] - before[name]) / TIMES for name in before}


def played(fleet: Fleet, caller: Caller, kind: str, seconds: float, rate: int) -> dict[str, Any]:
    """Play the exchange while requests of one kind are made; return figures of both."""
    before = fleet.cpu_s()
    with caller.busy(KINDS[kind]) as answered:
        result = fleet.exchange(seconds, rate)
    after = fleet.cpu_s()
    shown = ("sent", "received", "lost_conns", "seconds", "p50_us", "p99_us", "max_us")
    return {name: result[name] for name in shown} | {
        "requests": len(answered),
        "slowest_request_ms": round(1000 * max(answered, default=0.0), 1),
        "cpu_s": {name: round(after[name] - before[name], 3) for name in before},
    }


def median(values: list[float]) -> float:
    """Return the middle one."""
    return sorted(values)[len(values) // 2]


def table(
    runs: list[dict[str, Any]],
    costs: dict[str, dict[str, float]],
    longest: dict[str, dict[str, float]],
) -> str:
    """Return the figures in Markdown."""
    lines = ["| | p50, ms | p99, ms (all rounds) | longest, ms | requests/s | edges' CPU |"]
    lines.append("|---|---|---|---|---|---|")
    for kind in KINDS:
        mine = [run for run in runs if run["kind"] == kind]
        if not mine:
            continue
        p99 = [run["p99_us"] / 1000 for run in mine]
        lines.append(
            f"| {kind} | {median([run['p50_us'] / 1000 for run in mine]):.2f} | {median(p99):.1f} "
            f"({', '.join(f'{one:.1f}' for one in p99)}) | "
            f"{median([run['max_us'] / 1000 for run in mine]):.1f} | "
            f"{median([run['requests'] / run['seconds'] for run in mine]):.0f} | "
            f"{median([run['cpu_s']['edges'] / run['seconds'] for run in mine]):.2f} |"
        )
    lines += ["", "| request | console, ms | edges, ms | routers, ms | store, ms |"]
    lines.append("|---|---|---|---|---|")
    for name, cost in costs.items():
        parts = (f"{cost[part]:.1f}" for part in ("console", "edges", "routers", "store"))
        lines.append(f"| `{name}` | {' | '.join(parts)} |")
    lines += ["", "| page of an edge | longest callback, ms of CPU | all of it, ms |"]
    lines.append("|---|---|---|")
    for name, page in longest.items():
        lines.append(f"| {name} | {page['longest_ms']:.2f} | {page['cpu_ms']:.1f} |")
    return "\n".join(lines)


def main() -> int:
    """Measure, print the table and keep the results."""
    arguments = options()
    checkout = Checkout(arguments.checkout.resolve())
    size = Size(arguments.connected, arguments.offline, arguments.retained)
    known = about(["bench/paging.py", *sys.argv[1:]], {"this": checkout.root}, ("mosquitto",))
    costs: dict[str, dict[str, float]] = {}
    runs: list[dict[str, Any]] = []
    longest = longest_callbacks(arguments.connected)
    with tempfile.TemporaryDirectory(prefix="bench-") as name:
        mqload, _ = compile_mqload(Path(name))
        with Fleet(checkout, Path(name), mqload, size) as fleet:
            caller = Caller(fleet.url, fleet.token)
            for request in (*OF_THE_STORE, *OF_EDGES):
                costs[request.path] = cost_of(fleet, caller, request)
                print(request.path, costs[request.path], flush=True)
            for number in range(arguments.rounds):
                for kind in order(arguments.kinds, number):
                    run = played(fleet, caller, kind, arguments.seconds, arguments.rate)
                    runs.append({"kind": kind, "round": number} | run)
                    print(json.dumps(runs[-1]), flush=True)
    text = table(runs, costs, longest)
    print(text)
    commit = known["checkouts"]["this"]["commit"]
    file = arguments.out / f"{time.strftime('%Y-%m-%d')}-console-paging-{commit}.json"
    file.write_text(
        json.dumps(
            {"about": known, "size": asdict(size), "rounds": arguments.rounds}
            | {"longest_ms": longest, "costs_ms": costs, "runs": runs, "table": text.splitlines()},
            indent=1,
        )
        + "\n"
    )
    print(file)
    return 0


if __name__ == "__main__":
    sys.exit(main())
