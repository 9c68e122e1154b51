"""Clients of the whole broker.

``clients``, ``sessions``, ``client``, ``why``, ``subs``, ``queue``, ``kick``. Without a console
``clients`` asks one process.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Annotated

import typer

from tidegate.cli import ctl
from tidegate.cli.api.caller import Json, part
from tidegate.cli.api.command import (
    ClientArgument,
    JsonOption,
    LimitOption,
    MountPointOption,
    WatchOption,
    is_console_configured,
    nothing_or,
    show,
)
from tidegate.cli.api.output import Cell, age, clock, left, painted, payload, size, table, unix_time
from tidegate.cli.ctl import printable

NEVER_S = 0xFFFFFFFF


def clients(
    context: typer.Context,
    limit: LimitOption = 100,
    after: Annotated[
        str,
        typer.Option(
            help="Start after this client identifier; of the console, `next` of the page before.",
            metavar="ID",
        ),
    ] = "",
    as_json: JsonOption = False,
    watch: WatchOption = None,
) -> None:
    """List connected clients, ordered by mount point and client identifier.

    Where --api, --context, the environment or a context says where the console is: those of the
    whole broker. Otherwise, and with --admin: those of the process of --admin.
    """
    if not is_console_configured(context):
        if watch is not None:
            raise typer.BadParameter("this needs the console: --api URL", param_hint="--watch")
        ctl.clients(context, limit, after, as_json)
        return
    show(
        context,
        lambda api: api.all("/clients", {"state": "connected"}, limit, after),
        _client_list_lines,
        as_json,
        watch,
    )


def _client_list_lines(answer: Json) -> list[str]:
    head = ["CLIENT", "MOUNT POINT", "USER", "MQTT", "ADDRESS", "LISTENER", "EDGE", "FOR"]
    head += ["SESSION", "SUBS", "IN FLIGHT"]
    rows: list[tuple[object, ...]] = []
    for one in answer["items"]:
        connection = one["connection"] or {}
        rows.append(
            (
                one["client_id"],
                one["mount_point"],
                one["user"],
                *(connection.get(key) for key in ("version", "address", "listener", "edge")),
                age(unix_time(connection.get("since", ""))),
                "durable" if one["durable"] else "",
                one["subscriptions"],
                connection.get("in_flight"),
            )
        )
    if not any(row[1] for row in rows):
        head, rows = [head[0], *head[2:]], [(row[0], *row[2:]) for row in rows]
    lines = list(table(head, rows)) if rows else ["No clients."]
    if answer["next"]:
        lines.append(f"More clients: --after {printable(answer['next'])}")
    return lines


def sessions(
    context: typer.Context,
    prefix: Annotated[str, typer.Option(help="Beginning of the client identifier.")] = "",
    user: Annotated[str | None, typer.Option(help="User name.")] = None,
    address: Annotated[str | None, typer.Option(help="Beginning of the address.")] = None,
    listener: Annotated[str | None, typer.Option(help="Name of the listener.")] = None,
    state: Annotated[str, typer.Option(help="connected, offline, or all.")] = "all",
    limit: LimitOption = 100,
    as_json: JsonOption = False,
    watch: WatchOption = None,
) -> None:
    """List clients of the whole broker, connected and offline ones."""
    params = {
        "prefix": prefix,
        "user": user,
        "address": address,
        "listener": listener,
        "state": state,
    }
    show(
        context,
        lambda api: api.all("/clients", params, limit),
        _session_lines,
        as_json,
        watch,
    )


def _session_lines(answer: Json) -> list[str]:
    rows: list[tuple[object, ...]] = []
    for one in answer["items"]:
        connection = one["connection"] or {}
        rows.append(
            (
                one["client_id"],
                one["mount_point"],
                _state(one["state"]),
                one["user"],
                connection.get("address"),
                connection.get("edge"),
                age(unix_time(connection.get("since", ""))),
                "durable" if one["durable"] else "",
                one["subscriptions"],
                one["queued"] if one["queued"] is not None else connection.get("in_flight"),
                left(one["ends_at"]),
            )
        )
    head = ["CLIENT", "MOUNT POINT", "STATE", "USER", "ADDRESS", "EDGE", "FOR", "SESSION"]
    head += ["SUBS", "QUEUED", "ENDS IN"]
    if not any(row[1] for row in rows):
        head, rows = [head[0], *head[2:]], [(row[0], *row[2:]) for row in rows]
    return nothing_or(list(table(head, rows)), len(rows), "No clients.", answer["next"])


def _state(state: str) -> Cell:
    return Cell(state, "good" if state == "connected" else "faint")


def client(
    context: typer.Context,
    client_id: ClientArgument,
    mount_point: MountPointOption = "",
    as_json: JsonOption = False,
    watch: WatchOption = None,
) -> None:
    """Show one client: connection, session, queue, window, will."""
    path = f"/clients/{part(client_id)}"
    show(
        context,
        lambda api: api.get(path, {"mount_point": mount_point}),
        _client_lines,
        as_json,
        watch,
    )


def _client_lines(answer: Json) -> Iterator[str]:
    connection, session = answer["connection"], answer["session"]
    rows: list[tuple[str, object]] = [
        ("client", answer["client_id"]),
        ("state", _state(answer["state"])),
        ("user", answer["user"]),
    ]
    if answer["mount_point"]:
        rows.append(("mount point", answer["mount_point"]))
    if connection is not None:
        rows += [
            ("connected", f"for {age(unix_time(connection['since']))}, at {connection['edge']}"),
            ("address", f"{connection['address']}, listener {connection['listener']}"),
            ("MQTT", f"{connection['version']} over {connection['transport']}"),
            ("in flight", f"{connection['in_flight']} of {connection['receive_maximum']}"),
            ("idle", f"{connection['idle_s']} s; keep alive {connection['keep_alive_s']:.0f} s"),
        ]
        if connection["slow"]:
            rows.append(("slow", Cell("it does not read what is sent to it", "warning")))
    if session is None:
        rows.append(("session", "ends with the connection"))
    else:
        queue = session["queue"]
        expiry = "never ends" if session["expiry_s"] == NEVER_S else f"{session['expiry_s']} s"
        ends = f", ends in {left(session['ends_at'])}" if session["ends_at"] else ""
        waiting = age(queue.get("oldest_at"))
        oldest = f", the oldest for {waiting}" if waiting else ""
        rows += [
            ("session", f"expiry {expiry}{ends}"),
            ("subscriptions", session["subscription_count"]),
            ("queue", f"{queue['length']} messages, {size(queue['size_bytes'])}{oldest}"),
        ]
    for will in answer["wills"]:
        due = f", due in {left(will['due_at'])}" if will["due_at"] else ""
        rows.append(("will", f"{will['topic']} QoS {will['qos']}, delay {will['delay_s']} s{due}"))
    yield from _facts(rows)
    if answer["in_flight"]:
        yield ""
        yield from table(
            ["PACKET ID", "AWAITS", "QOS", "TOPIC", "SIZE"],
            [
                (one["packet_id"], one["awaits"], one["qos"], one["topic"], size(one["size_bytes"]))
                for one in answer["in_flight"]
            ],
        )


def _facts(rows: list[tuple[str, object]]) -> Iterator[str]:
    width = max(len(name) for name, _ in rows)
    for name, value in rows:
        cell = (
            value if isinstance(value, Cell) else Cell("-" if value in {None, ""} else str(value))
        )
        yield f"{painted(name.ljust(width), 'faint')}  {painted(printable(cell.text), cell.colour)}"


def why(
    context: typer.Context,
    client_id: ClientArgument,
    topic: Annotated[
        str, typer.Option(help="A topic of which it should get messages.", metavar="TOPIC")
    ] = "",
    mount_point: MountPointOption = "",
    as_json: JsonOption = False,
) -> None:
    """Say why a client gets nothing, or is not there, and what to do."""
    path = f"/clients/{part(client_id)}/why"
    params = {"mount_point": mount_point, "topic": topic}
    show(context, lambda api: api.get(path, params), _why_lines, as_json)


def _why_lines(answer: Json) -> Iterator[str]:
    colours = {"error": "bad", "warning": "warning", "info": ""}
    for one in answer["sentences"]:
        when = f"{clock(one['at'])} " if one["at"] is not None else ""
        text = printable(one["text"])
        # Sentences of the record begin with their time.
        said = text if text.startswith(when) else f"{when}{text}"
        yield painted(said, colours.get(one["severity"], ""))
        if one["advice"]:
            yield f"    {printable(one['advice'])}"


def queue(
    context: typer.Context,
    client_id: ClientArgument,
    mount_point: MountPointOption = "",
    limit: LimitOption = 20,
    as_json: JsonOption = False,
    watch: WatchOption = None,
) -> None:
    """Show what waits for a client, the oldest first."""
    path = f"/clients/{part(client_id)}/queue"
    show(
        context,
        lambda api: api.all(path, {"mount_point": mount_point}, limit),
        _queue_lines,
        as_json,
        watch,
    )


def _queue_lines(answer: Json) -> list[str]:
    rows = [
        (
            one["seq"],
            one["topic"],
            one["qos"],
            size(one["payload_size_bytes"]),
            one["is_sent"],
            age(one.get("queued_at")),
            left(one["expires_at"]),
            payload(one["payload_base64"], one["payload_size_bytes"], 40),
        )
        for one in answer["items"]
    ]
    head = ["SEQ", "TOPIC", "QOS", "SIZE", "SENT", "QUEUED FOR", "EXPIRES IN", "PAYLOAD"]
    return nothing_or(list(table(head, rows)), len(rows), "Nothing is queued.", answer["next"])


def subs(
    context: typer.Context,
    topic_filter: Annotated[
        str | None,
        typer.Argument(help="Who has exactly this topic filter.", metavar="FILTER"),
    ] = None,
    client_id: Annotated[
        str | None, typer.Option("--client", help="What this client has.", metavar="ID")
    ] = None,
    mount_point: MountPointOption = "",
    limit: LimitOption = 100,
    as_json: JsonOption = False,
    watch: WatchOption = None,
) -> None:
    """List subscriptions with a topic filter, or of a client."""
    if (topic_filter is None) == (client_id is None):
        raise typer.BadParameter("give a FILTER, or --client ID")
    params = {"filter": topic_filter, "client": client_id, "mount_point": mount_point}
    show(
        context,
        lambda api: api.all("/subscriptions", params, limit),
        _subscription_lines,
        as_json,
        watch,
    )


def _subscription_lines(answer: Json) -> list[str]:
    rows = [
        (one["client_id"], one["filter"], one["qos"], _state(one["state"]), _options(one))
        for one in answer["items"]
    ]
    head = ["CLIENT", "FILTER", "QOS", "STATE", "OPTIONS"]
    return nothing_or(list(table(head, rows)), len(rows), "No subscriptions.", answer["next"])


def _options(one: Json) -> str:
    found = ["durable"] if one["durable"] else []
    found += ["no local"] if one["no_local"] else []
    found += ["retain as published"] if one["retain_as_published"] else []
    if one["retain_handling"]:
        found.append(f"retain handling {one['retain_handling']}")
    return ", ".join(found)


def kick(
    context: typer.Context,
    client_id: ClientArgument,
    mount_point: MountPointOption = "",
    session: Annotated[
        bool, typer.Option("--session", help="End its session, too, with all that is queued.")
    ] = False,
    as_json: JsonOption = False,
) -> None:
    """Disconnect a client, wherever it is. It may connect again; `ban` keeps it away."""
    method, what = ("DELETE", "session") if session else ("POST", "disconnect")
    show(
        context,
        lambda api: api.call(
            method, f"/clients/{part(client_id)}/{what}", params={"mount_point": mount_point}
        ),
        lambda answer: [f"{printable(client_id)}: {printable(answer['detail'])}"],
        as_json,
    )
