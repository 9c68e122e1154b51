"""``nodes``, ``drain``, ``top``, ``events``, ``audit``, ``ban``, ``bans``, ``unban``: all of it."""

from __future__ import annotations

import time
from collections.abc import Iterator
from typing import Annotated, Final

import typer

from tidegate.cli import ctl
from tidegate.cli.api.caller import Api, Json, part
from tidegate.cli.api.command import (
    JsonOption,
    LimitOption,
    MountPointOption,
    WatchOption,
    nothing_or,
    show,
)
from tidegate.cli.api.output import Cell, clock, left, painted, size, table
from tidegate.cli.ctl import duration, printable

_UNITS: Final = {"s": 1, "m": 60, "h": 3600, "d": 86_400}
_COLOURS: Final = {"ok": "good", "degraded": "warning", "down": "bad"}


def nodes(context: typer.Context, as_json: JsonOption = False, watch: WatchOption = None) -> None:
    """List edges and routers: a row for each process."""
    show(context, lambda api: api.get("/nodes"), _node_lines, as_json, watch)


def _node_lines(answer: Json) -> list[str]:
    rows = []
    for one in answer["items"]:
        load, drain = one.get("load") or {}, one.get("drain") or {}
        state = "draining" if drain.get("draining") else "ready" if one["ready"] else "NOT READY"
        rows.append(
            (
                one["name"],
                one["role"],
                Cell(state, "good" if state == "ready" else "warning"),
                one["clients"],
                f"{load['cpu_percent']:.0f} %" if "cpu_percent" in load else None,
                size(load.get("memory_bytes")),
                duration(one["uptime_s"]),
                one["version"],
                one.get("build") or None,
                one["reason"] if one["reason"] != "ready" else "",
            )
        )
    head = [
        *("NODE", "ROLE", "STATE", "CLIENTS", "CPU", "MEMORY", "UP FOR", "VERSION", "BUILD"),
        "REMARK",
    ]
    return nothing_or(list(table(head, rows)), len(rows), "No node answers.", answer["next"])


def drain(
    context: typer.Context,
    node: Annotated[
        str | None,
        typer.Argument(help="Node, as `nodes` lists it. Default: the process of --admin."),
    ] = None,
    wait: Annotated[
        bool, typer.Option("--wait", help="Wait until all clients are disconnected.")
    ] = False,
    as_json: JsonOption = False,
) -> None:
    """Close the listeners of a process and disconnect all clients.

    Clients are disconnected at the rate of drain.rate. Draining cannot be cancelled.
    """
    if node is None:
        ctl.drain(context, wait, as_json)
        return
    path = f"/nodes/{part(node)}"

    def run(api: Api) -> Json:
        progress = api.call("POST", f"{path}/drain")
        while wait and not progress["done"]:
            time.sleep(ctl.POLL_S)
            found = api.get(path)["drain"]
            if found is None:
                break
            progress = found
        return progress

    show(context, run, lambda progress: [ctl.drain_line(progress)], as_json)


def top(
    context: typer.Context,
    as_json: JsonOption = False,
    watch: WatchOption = 2.0,
    once: Annotated[bool, typer.Option("--once", help="Show it once, and end.")] = False,
) -> None:
    """Show live how the broker is: what is wrong, numbers, rates, nodes."""
    show(context, lambda api: api.get("/overview"), _top_lines, as_json, None if once else watch)


def _top_lines(answer: Json) -> Iterator[str]:
    yield painted(answer["state"].upper(), _COLOURS.get(answer["state"], ""))
    for one in answer["findings"]:
        colour = "bad" if one["level"] == "problem" else "warning"
        where = f"{one['node']}: " if one["node"] else ""
        yield painted(f"{printable(where)}{printable(one['text'])}", colour)
        if one["change"]:
            yield f"    {printable(one['change'])}"
    if answer["totals"]:
        yield ""
        yield ", ".join(f"{value:,} {name}" for name, value in answer["totals"].items())
    if answer["rates"]:
        yield ""
        rows = [
            (name.replace("_", " "), f"{value:,.1f}") for name, value in answer["rates"].items()
        ]
        yield from table(["FIGURE", "NOW"], rows)
    for title, counts in (("DROPPED IN 5 MIN", "dropped"), ("REFUSED IN 5 MIN", "refused")):
        found = {name: count for name, count in answer[counts].items() if count}
        if found:
            yield ""
            yield from table([title, "COUNT"], [(name, f"{n:,.0f}") for name, n in found.items()])
    yield ""
    yield from table(
        ["NODE", "ROLE", "STATE", "CLIENTS"],
        [
            (
                one["name"],
                one["role"],
                Cell("ready", "good") if one["ready"] else Cell(one["reason"], "warning"),
                one["clients"],
            )
            for one in answer["nodes"]
        ],
    )


def events(
    context: typer.Context,
    client_id: Annotated[
        str, typer.Option("--client", help="Only of this client.", metavar="ID")
    ] = "",
    kind: Annotated[list[str] | None, typer.Option(help="Only these; may be repeated.")] = None,
    limit: LimitOption = 50,
    as_json: JsonOption = False,
    watch: WatchOption = None,
) -> None:
    """Show what has happened to clients, the newest last."""
    params = {"client": client_id, "kind": kind or ()}
    show(context, lambda api: api.all("/events", params, limit), _event_lines, as_json, watch)


def _event_lines(answer: Json) -> list[str]:
    rows = [
        (
            clock(one["at"]),
            one["client"],
            one["kind"].replace("_", " "),
            one["reason"].replace("_", " "),
            one.get("address"),
            one.get("topic"),
            one["edge"],
        )
        for one in reversed(answer["items"])
    ]
    head = ["AT", "CLIENT", "EVENT", "REASON", "ADDRESS", "TOPIC", "NODE"]
    return nothing_or(list(table(head, rows)), len(rows), "Nothing has happened.", None)


def audit(
    context: typer.Context,
    limit: LimitOption = 50,
    as_json: JsonOption = False,
    watch: WatchOption = None,
) -> None:
    """Show what has been changed with the console, the newest first."""
    show(context, lambda api: api.all("/audit", {}, limit), _audit_lines, as_json, watch)


def _audit_lines(answer: Json) -> list[str]:
    rows = [
        (
            clock(one["at"]),
            one["user"],
            one["action"],
            one["target"],
            Cell(one["outcome"], "" if one["outcome"] == "done" else "warning"),
            one["address"],
        )
        for one in answer["items"]
    ]
    head = ["AT", "WHO", "ACTION", "WHAT", "OUTCOME", "FROM"]
    return nothing_or(list(table(head, rows)), len(rows), "Nothing.", answer["next"])


def seconds_of(text: str) -> float:
    """Read a time span: 90, 90s, 15m, 2h, 7d. Raises BadParameter."""
    unit = _UNITS.get(text[-1:], 0)
    number = text[:-1] if unit else text
    if not number.isdigit() or int(number) == 0:
        raise typer.BadParameter(f"expected 90s, 15m, 2h or 7d, got {text}", param_hint="--for")
    return int(number) * (unit or 1)


def ban(
    context: typer.Context,
    client_id: Annotated[str | None, typer.Option("--client", help="Client identifier.")] = None,
    user: Annotated[str | None, typer.Option(help="User name.")] = None,
    address: Annotated[
        str | None, typer.Option(help="IP address, or network (10.1.0.0/16).")
    ] = None,
    reason: Annotated[str, typer.Option(help="Why; shown with the ban.")] = "",
    lasts: Annotated[
        str | None, typer.Option("--for", help="How long: 90s, 15m, 2h, 7d; else for ever.")
    ] = None,
    mount_point: MountPointOption = "",
    as_json: JsonOption = False,
) -> None:
    """Ban a client identifier, a user, or an address, at every edge within a second."""
    given: Json = {"client": client_id, "user": user, "address": address}
    body = {name: value for name, value in given.items() if value is not None}
    if len(body) != 1:
        raise typer.BadParameter("give one of --client, --user and --address")
    body["reason"] = reason
    if client_id is not None:
        body["mount_point"] = mount_point
    if lasts is not None:
        body["until"] = time.time() + seconds_of(lasts)
    show(
        context,
        lambda api: api.call("POST", "/bans", body),
        lambda answer: [f"Banned; `tidegate ctl unban {answer['id']}` ends it."],
        as_json,
    )


def bans(
    context: typer.Context,
    limit: LimitOption = 100,
    as_json: JsonOption = False,
    watch: WatchOption = None,
) -> None:
    """List bans."""
    show(context, lambda api: api.all("/bans", {}, limit), _ban_lines, as_json, watch)


def _ban_lines(answer: Json) -> list[str]:
    rows = []
    for one in answer["items"]:
        kind = next(name for name in ("client", "user", "address") if one[name] is not None)
        rows.append((one["id"], kind, one[kind], left(one["until"]), one["reason"], one["by"]))
    head = ["ID", "WHAT", "VALUE", "ENDS IN", "REASON", "BY"]
    return nothing_or(list(table(head, rows)), len(rows), "No bans.", answer["next"])


def unban(
    context: typer.Context,
    ban_id: Annotated[str, typer.Argument(help="As `bans` lists it.", metavar="ID")],
    as_json: JsonOption = False,
) -> None:
    """End a ban."""
    show(
        context,
        lambda api: api.call("DELETE", f"/bans/{part(ban_id)}"),
        lambda _: ["The ban has ended."],
        as_json,
    )
