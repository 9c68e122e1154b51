"""Measure brokers: CPU time per delivered message, latency, memory per connection.

Plays the scenarios of docs/performance.md with ``mqload`` (compiled from bench/mqload.c) against
Tidegate in one process, as a cluster on one machine and as a cluster as in Kubernetes, and against
the peers that are installed. Everything runs on loopback, on free ports, with fresh data. In each
round every broker plays in turn. Of one run come one table, one chart and the raw results.

    python bench/run.py [--scenarios A,C] [--brokers one,mtls,mosquitto] [--rounds 3] [--scale 0.1]
    python bench/run.py --against ../other-checkout --brokers one --scenarios A,C --rounds 9
"""

from __future__ import annotations

import argparse
import json
import signal
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
# Neither is installed, and PYTHONSAFEPATH leaves out the directory of the script.
sys.path[:0] = [str(ROOT / "bench"), str(ROOT / "tests")]

from measure import chart, peers, report  # noqa: E402  # the path has to be there first
from measure.brokers import Broker, Checkout, brokers_of, peers_found  # noqa: E402
from measure.figures import order  # noqa: E402
from measure.load import BuildError, compile_mqload, play  # noqa: E402
from measure.results import Results, about  # noqa: E402
from measure.running import StartError  # noqa: E402
from measure.scenarios import SCENARIOS, Scenario, chosen  # noqa: E402

ALL_BROKERS = ("one", "unix", "mtls", "mosquitto", "nats")
OTHER = "other"


def options() -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--scenarios", default=",".join(SCENARIOS), help="names, with commas")
    parser.add_argument("--brokers", default=",".join(ALL_BROKERS), help="names, with commas")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--scale", type=float, default=1.0, help="times the work of a scenario")
    parser.add_argument("--cluster", default="2x2", metavar="EDGESxROUTERS")
    parser.add_argument(
        "--against", type=Path, metavar="DIR", help="a checkout with .venv to play in turn with"
    )
    parser.add_argument("--margin", type=float, default=0.03, help="what --against shows (0.03)")
    parser.add_argument("--out", type=Path, default=ROOT / "bench" / "results", metavar="DIR")
    arguments = parser.parse_args()
    if arguments.rounds < 1 or arguments.scale <= 0:
        parser.error("--rounds and --scale must be more than 0")
    try:
        arguments.scenarios = chosen(arguments.scenarios)
        arguments.edges, arguments.routers = map(int, arguments.cluster.split("x"))
    except ValueError as error:
        parser.error(str(error))
    arguments.brokers = arguments.brokers.split(",")
    unknown = set(arguments.brokers) - set(ALL_BROKERS)
    if unknown:
        parser.error(f"no broker {', '.join(sorted(unknown))}; there are {', '.join(ALL_BROKERS)}")
    if arguments.against and not Checkout(arguments.against.resolve()).python.exists():
        parser.error(f"{arguments.against} has no .venv; run make setup there")
    return arguments


def columns(arguments: argparse.Namespace) -> tuple[dict[str, Broker], list[str], dict[str, Path]]:
    """Return the brokers to play, what is missing, and the checkouts."""
    checkouts = {"this": ROOT}
    here = brokers_of(Checkout(ROOT), arguments.edges, arguments.routers)
    found, absent = peers_found()
    there = {}
    if arguments.against:
        checkouts[OTHER] = arguments.against.resolve()
        other = Checkout(checkouts[OTHER])
        there = brokers_of(other, arguments.edges, arguments.routers, OTHER)
    players = {}
    for name in arguments.brokers:
        if name in here:
            players[name] = here[name]
            if name in there:
                players[f"{name}-{OTHER}"] = there[name]
        elif name in found:
            players[name] = found[name]
    wanted = {program for name, _, program, _ in peers.PEERS if name in arguments.brokers}
    return players, [f"{name} (not installed)" for name in absent if name in wanted], checkouts


def play_all(
    results: Results, players: dict[str, Broker], mqload: Path, arguments: argparse.Namespace
) -> None:
    """Play every scenario in rounds, and add to the results."""
    scenarios: list[Scenario] = arguments.scenarios
    for scenario in scenarios:
        taking_part = [n for n, b in players.items() if b.product not in scenario.not_for]
        for number in range(arguments.rounds):
            for name in order(taking_part, number):
                try:
                    result = play(mqload, scenario, arguments.scale, players[name].start)
                except StartError as error:
                    result = {"failed": str(error)}
                results.add(scenario.name, name, number, result)
                line = {"scenario": scenario.name, "broker": name, "round": number, **result}
                print(json.dumps(line), file=sys.stderr, flush=True)


def write(results: Results, out: Path, margin: float) -> Path:
    """Write table, chart and raw results beside each other; return the table's file."""
    out.mkdir(parents=True, exist_ok=True)
    stamp = results.about["date"][:16].replace(":", "").replace("T", "-")
    base = out / f"{stamp}-{results.about['checkouts']['this']['commit'] or 'unknown'}"
    results.write(base.with_suffix(".json"))
    base.with_suffix(".svg").write_text(chart.draw(results), encoding="utf-8")
    page = report.document(results, margin, f"{base.name}.svg")
    base.with_suffix(".md").write_text(page, encoding="utf-8")
    return base.with_suffix(".md")


def main() -> int:
    """Play what was asked for, until SIGINT or SIGTERM; 1 if anything failed."""
    arguments = options()
    for number in (signal.SIGINT, signal.SIGTERM):  # the first may be ignored in the background
        signal.signal(number, signal.default_int_handler)
    players, missing, checkouts = columns(arguments)
    with tempfile.TemporaryDirectory(prefix="bench-") as directory:
        try:
            mqload, has_tls = compile_mqload(Path(directory))
        except (BuildError, OSError) as error:
            print(f"bench: mqload does not compile: {error}", file=sys.stderr)
            return 1
        if not has_tls:
            missing.append("clients over TLS (OpenSSL's headers are not installed: libssl-dev)")
            arguments.scenarios = [s for s in arguments.scenarios if s.listener != "tls"]
        programs = [program for name, _, program, _ in peers.PEERS if name in players]
        found = about([Path(sys.executable).name, *sys.argv], checkouts, programs)
        found |= {"rounds": arguments.rounds, "scale": arguments.scale, "missing": missing}
        results = Results(found, {name: broker.title for name, broker in players.items()})
        results.pairs = [(n, f"{n}-{OTHER}") for n in players if f"{n}-{OTHER}" in players]
        try:
            play_all(results, players, mqload, arguments)
        except KeyboardInterrupt:
            found["missing"].append("the rest (interrupted)")
    page = write(results, arguments.out, arguments.margin)
    print(page.read_text(encoding="utf-8"))
    print(f"written: {page} and .svg and .json beside it", file=sys.stderr)
    return 1 if results.failures() else 0


if __name__ == "__main__":
    sys.exit(main())
