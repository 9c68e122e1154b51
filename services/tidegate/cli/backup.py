"""``tidegate backup`` and ``tidegate restore``: arguments in, lines of progress out.

Added to the command line by ``cli.main``; the work is in ``tidegate.backup``. With ``--json`` each
line is one JSON object, the last one says how it has ended. Exit codes: 0 done, 1 failed, 2 wrong
usage.
"""

# ruff: noqa: PLC0415 - imports inside the commands keep the quick ones quick

from __future__ import annotations

import contextlib
import json
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, TypeAlias

import typer

from tidegate.cli import options
from tidegate.cli.exit import EXIT_FAILED, missing_extra, print_error, usage_error
from tidegate.cli.processes import load_config

if TYPE_CHECKING:
    from tidegate.backup.failure import Reason
    from tidegate.backup.file_format import Summary
    from tidegate.backup.progress import Phase, Progress
    from tidegate.backup.target import Target
    from tidegate.runtime.config.model import StoreConfig

Json: TypeAlias = Annotated[
    bool, typer.Option("--json", help="Print each line as a JSON object, for programs.")
]

Wait: TypeAlias = Annotated[
    float,
    typer.Option(
        "--wait",
        min=0,
        help="Wait this long for a store that is not available.",
        metavar="SECONDS",
    ),
]


def backup(
    target: Annotated[
        str, typer.Argument(help="Directory, or s3://BUCKET/PREFIX.", metavar="TARGET")
    ],
    config: options.Config = None,
    data_dir: options.DataDir = None,
    redis: options.Redis = None,
    name: Annotated[
        str | None,
        typer.Option(help="Name of the backup. Default: the time, as 20261129T224512Z."),
    ] = None,
    keep: Annotated[
        int | None,
        typer.Option(
            min=1, help="Delete older complete backups in TARGET beyond this number.", metavar="N"
        ),
    ] = None,
    wait: Wait = 0,
    as_json: Json = False,
) -> None:
    """Back up sessions, queues and retained messages while the broker runs.

    Writes one file with checksums, NAME.tgbackup. With --data-dir the broker may run or not.
    """
    import time

    from tidegate.backup.backup import back_up
    from tidegate.backup.target import default_name, is_name

    store = _store(config, data_dir, redis)
    chosen = name if name is not None else default_name(time.time())
    if not is_name(chosen):
        usage_error(f"--name {chosen}: letters, digits, '.', '_' and '-' only, 128 at most")
    with _outcome(as_json):
        where = _target(target)
        summary, deleted = back_up(store, where, chosen, keep, _progress(as_json), wait)
        _print_done("Backed up to", where, summary, as_json, deleted)


def restore(
    source: Annotated[
        str, typer.Argument(help="Directory, or s3://BUCKET/PREFIX.", metavar="SOURCE")
    ],
    config: options.Config = None,
    data_dir: options.DataDir = None,
    redis: options.Redis = None,
    name: Annotated[
        str, typer.Option(help="Name of the backup, or latest: the newest complete one.")
    ] = "latest",
    list_only: Annotated[
        bool, typer.Option("--list", help="List the backups in SOURCE, restore nothing.")
    ] = False,
    wait: Wait = 0,
    as_json: Json = False,
) -> None:
    """Restore a backup into an empty store on which no broker runs.

    All of it is verified before anything is written. A restore that was interrupted is finished by
    running it again; no broker starts before that.
    """
    from tidegate.backup.restore import restore as restore_from
    from tidegate.backup.target import is_name

    if not is_name(name):
        usage_error(f"--name {name}: no backup has such a name")
    if list_only:
        with _outcome(as_json):
            _print_list(_target(source), as_json=as_json)
        return
    store = _store(config, data_dir, redis)
    with _outcome(as_json):
        where = _target(source)
        summary = restore_from(store, where, name, _progress(as_json), wait)
        _print_done("Restored from", where, summary, as_json)


def _store(config: Path | None, data_dir: Path | None, redis: str | None) -> StoreConfig:
    flags = options.flags_of({"config": config, "data_dir": data_dir, "redis": redis})
    return load_config(flags, "serve", quiet=True).config.store


def _target(text: str) -> Target:
    from tidegate.backup.opening import open_target

    try:
        return open_target(text)
    except ValueError as error:
        usage_error(str(error))


@contextlib.contextmanager
def _outcome(as_json: bool) -> Iterator[None]:
    """Print the failure of what is done within, and end the command then."""
    from tidegate.backup.failure import BackupFailed, Reason
    from tidegate.backup.interruption import interruptible

    try:
        with interruptible():
            yield
    except (BackupFailed, ImportError) as error:
        if isinstance(error, BackupFailed):
            reason, text = error.reason, str(error)
        elif (missing := missing_extra(error)) is not None:
            reason, text = Reason.MISSING_PACKAGE, missing
        else:
            raise
        if as_json:
            _print_failure(reason, text)
        print_error(f"tidegate: {text}")
        raise typer.Exit(EXIT_FAILED) from None
    except typer.Exit:
        raise
    except Exception as error:  # the traceback follows
        if as_json:
            text = f"an error of Tidegate's own ({type(error).__name__}: {error}): report it"
            _print_failure(Reason.INTERNAL, text)
        raise


def _print_failure(reason: Reason, text: str) -> None:
    _print({"phase": "failed", "reason": str(reason), "message": text})


def _progress(as_json: bool) -> Progress:
    from tidegate.backup.progress import Phase, Progress

    def report(phase: Phase, keys: int, size: int) -> None:
        if as_json:
            _print({"phase": str(phase), "keys": keys, "bytes": size})
        elif phase is Phase.WAITING:
            print("waiting for the store", flush=True)
        else:
            print(f"{phase}: {keys} keys, {size} bytes", flush=True)

    return Progress(report)


def _print_done(
    what: str, where: Target, summary: Summary, as_json: bool, deleted: list[str] | None = None
) -> None:
    head, totals = summary.head, summary.totals
    from tidegate.backup.file_format import FORMAT

    if not as_json:
        print(
            f"{what} {where}: {head.name}, {totals.sessions} sessions, "
            f"{totals.queued_messages} queued messages, {totals.retained} retained messages, "
            f"{summary.size} bytes, SHA-256 {summary.sha256}"
        )
        if deleted:
            print(f"Deleted {', '.join(deleted)}")
        return
    done: dict[str, Any] = {
        "phase": "done",
        "name": head.name,
        "bytes": summary.size,
        "sha256": summary.sha256,
        "sessions": totals.sessions,
        "queued_messages": totals.queued_messages,
        "retained": totals.retained,
        "format": FORMAT,
        "version": head.version,
        "taken_at": head.taken_at,
    }
    _print(done if deleted is None else {**done, "deleted": deleted})


def _print_list(source: Target, *, as_json: bool) -> None:
    from tidegate.backup.listing import backups_in

    found = backups_in(source)
    if as_json:
        for one in found:
            _print(asdict(one))
        return
    if not found:
        print(f"No backups in {source}")
    for one in found:
        state = "complete" if one.complete else "INCOMPLETE"
        taken_at, version = one.taken_at or "-", one.version or "-"
        print(f"{one.name}  {taken_at}  {one.bytes} bytes  {state}  version {version}")


def _print(line: dict[str, Any]) -> None:
    print(json.dumps(line), flush=True)
