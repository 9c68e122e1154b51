"""``topic``, ``shared``, ``retained``, ``publish``, ``listen``: topics and messages."""

# ruff: noqa: PLC0415 - imports inside keep the other commands quick; options are many

from __future__ import annotations

import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated

import typer

from tidegate.cli.api.caller import Api, ApiFailure, Json, part
from tidegate.cli.api.command import (
    EXIT_FAILED,
    JsonOption,
    LimitOption,
    WatchOption,
    api_of,
    failed,
    nothing_or,
    show,
)
from tidegate.cli.api.output import Cell, age, clock, left, painted, payload, size, table
from tidegate.cli.ctl import printable

#: Between two looks at a deletion.
POLL_S = 0.3
_VERDICTS = {"allowed": "good", "denied": "bad", "depends": "warning", "unknown": "warning"}

retained = typer.Typer(
    name="retained",
    help="List, show and delete retained messages.",
    no_args_is_help=True,
    rich_markup_mode=None,
)
FilterArgument = Annotated[str, typer.Argument(help="Topic filter.", metavar="FILTER")]
TopicArgument = Annotated[
    str, typer.Argument(help="Topic, with the mount point if there is one.", metavar="TOPIC")
]


def topic(
    context: typer.Context,
    name: TopicArgument,
    as_json: JsonOption = False,
    watch: WatchOption = None,
) -> None:
    """Show who gets a message on a topic, and who is denied it."""
    show(
        context,
        lambda api: api.get("/topics/receivers", {"topic": name}),
        _receiver_lines,
        as_json,
        watch,
    )


def _receiver_lines(answer: Json) -> Iterator[str]:
    rows = [
        (
            one["client_id"],
            one["user"],
            Cell(one["state"], "good" if one["state"] == "connected" else "faint"),
            ", ".join(one["filters"]),
            one["qos"],
            Cell(one["acl"], _VERDICTS.get(one["acl"], "")),
            one["edge"],
        )
        for one in answer["receivers"]
    ]
    if rows:
        yield from table(["CLIENT", "USER", "STATE", "FILTERS", "QOS", "ACL", "EDGE"], rows)
    elif not answer["groups"]:
        yield f"Nobody has a subscription that matches {printable(answer['topic'])}."
    if answer["groups"]:
        yield ""
        yield "One member of each of these groups:"
        groups = [
            (f"{one['share_name']}/{one['filter']}", *_members(one)) for one in answer["groups"]
        ]
        yield from table(["GROUP", "MEMBERS", "CONNECTED"], groups)
    if answer["more"]:
        yield "There are more: this is the beginning."


def _members(one: Json) -> tuple[int, Cell]:
    return one["members"], Cell(str(one["connected"]), "" if one["connected"] else "warning")


def shared(
    context: typer.Context,
    group: Annotated[
        str | None, typer.Argument(help="SHARE/FILTER: its members.", metavar="GROUP")
    ] = None,
    limit: LimitOption = 100,
    as_json: JsonOption = False,
    watch: WatchOption = None,
) -> None:
    """List groups of shared subscriptions, or the members of one with what they have to do."""
    if group is None:
        show(
            context,
            lambda api: api.all("/shared-groups", {}, limit),
            _group_lines,
            as_json,
            watch,
        )
        return
    path = f"/shared-groups/{part(group.removeprefix('$share/'))}"
    show(context, lambda api: api.get(path), _member_lines, as_json, watch)


def _group_lines(answer: Json) -> list[str]:
    rows = [(one["name"], *_members(one)) for one in answer["items"]]
    head = ["GROUP", "MEMBERS", "CONNECTED"]
    return nothing_or(list(table(head, rows)), len(rows), "No groups.", answer["next"])


def _member_lines(answer: Json) -> Iterator[str]:
    rows = [
        (
            one["client_id"],
            Cell(one["state"], "good" if one["state"] == "connected" else "warning"),
            "durable" if one["durable"] else "",
            one["qos"],
            f"{one['unacknowledged']}{'+' if one['is_least'] else ''}"
            if one["unacknowledged"] is not None
            else None,
            one["edge"],
        )
        for one in answer["members"]
    ]
    yield from table(["MEMBER", "STATE", "SESSION", "QOS", "UNACKNOWLEDGED", "EDGE"], rows)


@retained.command(name="list")
def list_retained(
    context: typer.Context,
    topic_filter: FilterArgument = "#",
    limit: LimitOption = 100,
    as_json: JsonOption = False,
    watch: WatchOption = None,
) -> None:
    """List retained messages whose topics match a filter."""
    show(
        context,
        lambda api: api.all("/retained", {"filter": topic_filter}, limit),
        _retained_lines,
        as_json,
        watch,
    )


def _retained_lines(answer: Json) -> list[str]:
    rows = [
        (
            one["topic"],
            one["qos"],
            size(one["payload_size_bytes"]),
            age(one["received_at"]),
            left(one["expires_at"]),
            payload(one["payload_base64"], one["payload_size_bytes"], 40),
        )
        for one in answer["items"]
    ]
    head = ["TOPIC", "QOS", "SIZE", "AGE", "EXPIRES IN", "PAYLOAD"]
    return nothing_or(list(table(head, rows)), len(rows), "No messages.", answer["next"])


@retained.command()
def tree(
    context: typer.Context,
    prefix: Annotated[str, typer.Argument(help="Topic.", metavar="TOPIC")] = "",
    as_json: JsonOption = False,
) -> None:
    """Show what is one level below a topic."""
    show(context, lambda api: api.get("/retained/tree", {"prefix": prefix}), _tree_lines, as_json)


def _tree_lines(answer: Json) -> Iterator[str]:
    rows = [
        (one["name"] or "(empty)", one["topics"], size(one["size_bytes"]), one["has_value"])
        for one in answer["children"]
    ]
    yield from table(["LEVEL", "MESSAGES", "SIZE", "OWN MESSAGE"], rows)
    at_least = "at least " if answer["is_partial"] else ""
    yield f"{at_least}{answer['topics']} messages, {size(answer['size_bytes'])}"


@retained.command()
def get(
    context: typer.Context,
    name: TopicArgument,
    raw: Annotated[bool, typer.Option("--raw", help="Print the payload alone, as it is.")] = False,
    as_json: JsonOption = False,
) -> None:
    """Show the retained message of a topic."""
    if raw:
        import base64

        try:
            found = api_of(context).get("/retained/value", {"topic": name})
        except ApiFailure as error:
            failed(error)
        sys.stdout.buffer.write(base64.b64decode(found["payload_base64"]))
        return
    show(context, lambda api: api.get("/retained/value", {"topic": name}), _value_lines, as_json)


def _value_lines(answer: Json) -> Iterator[str]:
    facts = [f"QoS {answer['qos']}", size(answer["payload_size_bytes"])]
    facts.append(f"{age(answer['received_at'])} old")
    if answer["expires_at"] is not None:
        facts.append(f"expires in {left(answer['expires_at'])}")
    if answer["content_type"]:
        facts.append(printable(answer["content_type"]))
    yield painted(", ".join(facts), "faint")
    for name, value in answer["user_properties"]:
        yield painted(f"{printable(name)}: {printable(value)}", "faint")
    yield payload(answer["payload_base64"], answer["payload_size_bytes"], 10_000)


@retained.command()
def delete(
    context: typer.Context,
    topic_filter: FilterArgument,
    yes: Annotated[bool, typer.Option("--yes", help="Do not ask.")] = False,
    as_json: JsonOption = False,
) -> None:
    """Delete retained messages whose topics match a filter; Ctrl-C stops it.

    Subscribers get an empty message for each of them.
    """
    if not yes:
        typer.confirm(f"Delete all retained messages that match {topic_filter}?", abort=True)

    def run(api: Api) -> Json:
        state = api.call("POST", "/retained/deletions", {"filter": topic_filter})
        path = f"/retained/deletions/{state['id']}"
        try:
            while state["state"] == "running":
                if sys.stderr.isatty():
                    said = f"{100 * state['progress']:.0f} %, {state['deleted']} deleted"
                    print(f"\r{said}", end="", file=sys.stderr, flush=True)
                time.sleep(POLL_S)
                state = api.get(path)
        except KeyboardInterrupt:
            state = api.call("DELETE", path)
        if state["state"] == "failed":
            raise ApiFailure(state["problem"] or "it failed")
        return state

    show(context, run, lambda state: [f"{state['deleted']} deleted: {state['state']}"], as_json)


def publish(
    context: typer.Context,
    name: TopicArgument,
    message: Annotated[
        str | None, typer.Argument(help="Payload as text; - is standard input.", metavar="PAYLOAD")
    ] = None,
    file: Annotated[
        Path | None, typer.Option(help="File with the payload.", metavar="FILE")
    ] = None,
    qos: Annotated[int, typer.Option(min=0, max=2, help="Quality of service.")] = 0,
    retain: Annotated[bool, typer.Option("--retain", help="Have the topic retain it.")] = False,
    content_type: Annotated[str | None, typer.Option(help="MQTT 5 content type.")] = None,
    expiry: Annotated[
        int | None, typer.Option(min=1, help="Seconds until it expires.", metavar="SECONDS")
    ] = None,
    user_property: Annotated[
        list[str] | None, typer.Option("--property", help="User property.", metavar="NAME=VALUE")
    ] = None,
    as_json: JsonOption = False,
) -> None:
    """Publish a message."""
    import base64

    if message is not None and file is not None:
        raise typer.BadParameter("give PAYLOAD or --file")
    try:
        content = _content(message, file)
    except OSError as error:
        raise typer.BadParameter(f"{file}: {error.strerror}", param_hint="--file") from None
    properties: Json = {
        "content_type": content_type,
        "message_expiry_s": expiry,
        "user_properties": [list(one.partition("=")[::2]) for one in user_property or []],
    }
    body = {
        "topic": name,
        "payload_base64": base64.b64encode(content).decode(),
        "qos": qos,
        "retain": retain,
        "properties": {key: value for key, value in properties.items() if value is not None},
    }
    show(
        context,
        lambda api: api.call("POST", "/publish", body),
        lambda answer: [f"Published by {answer['edge']}: {answer['reason'].replace('_', ' ')}."],
        as_json,
    )


def _content(message: str | None, file: Path | None) -> bytes:
    if file is not None:
        return file.read_bytes()
    if message == "-":
        return sys.stdin.buffer.read()
    return (message or "").encode("utf-8", "surrogateescape")


def listen(
    context: typer.Context,
    topic_filter: FilterArgument,
    rate: Annotated[int, typer.Option(min=1, max=1000, help="Messages in a second.")] = 100,
    count: Annotated[
        int, typer.Option("-n", "--count", min=0, help="End after so many; 0: never.")
    ] = 0,
    as_json: JsonOption = False,
) -> None:
    """Show messages on topics that match a filter, as they are published."""
    import json

    seen = skipped = 0
    try:
        for kind, value in api_of(context).events(
            "/sample", {"filter": topic_filter, "rate": rate}
        ):
            if kind == "error":
                print(f"tidegate: {printable(value['error'])}", file=sys.stderr)
                raise typer.Exit(EXIT_FAILED)
            if kind == "status" and value["skipped"] > skipped:
                skipped = value["skipped"]
                print(painted(f"{skipped} skipped so far", "warning"), file=sys.stderr)
            if kind == "message":
                print(json.dumps(value) if as_json else _message_line(value), flush=True)
                seen += 1
                if seen == count:
                    return
    except ApiFailure as error:
        failed(error)


def _message_line(value: Json) -> str:
    marks = f"{value['qos']}{'r' if value['retain'] else ''}"
    text = payload(value["payload_base64"], value["payload_size_bytes"], 200)
    when = painted(clock(value["at"]), "faint")
    return f"{when} {painted(printable(value['topic']), 'strong')} {marks} {text}"
