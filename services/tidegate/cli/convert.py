"""The command ``tidegate convert``: reads a mosquitto.conf, writes what Tidegate needs instead.

Added to the command line by ``cli.main``. Owns the files that are written and the exit codes.
"""

# ruff: noqa: PLC0415 - imports inside the command keep the quick ones quick

from __future__ import annotations

import os
import re
import sys
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Final

import typer

from tidegate.cli.exit import fail, print_error, usage_error

if TYPE_CHECKING:
    from tidegate.convert.conversion import Conversion
    from tidegate.convert.findings import Findings

#: Something is not carried over.
EXIT_REMARKS: Final = 3
_STDOUT: Final = Path("-")
_CONFIG_NAME: Final = "tidegate.yaml"
_RESOURCE_NAME: Final = "mqttbroker.yaml"
_SECRETS_NAME: Final = "secrets.yaml"
_BROKER_NAME: Final = re.compile(r"[a-z]([-a-z0-9]{0,38}[a-z0-9])?")


class Format(StrEnum):
    """What is written."""

    yaml = "yaml"
    mqttbroker = "mqttbroker"


def convert(
    file: Annotated[Path, typer.Argument(help="Configuration of mosquitto.", metavar="FILE")],
    to: Annotated[
        Format,
        typer.Option(
            "--to",
            help="yaml: a configuration file; mqttbroker: an MqttBroker resource and its Secrets, "
            "for Kubernetes.",
        ),
    ] = Format.yaml,
    output: Annotated[
        Path,
        typer.Option(
            "--output",
            "-o",
            help="Directory for tidegate.yaml, or mqttbroker.yaml and secrets.yaml; - is standard "
            "output.",
            metavar="DIR",
        ),
    ] = _STDOUT,
    name: Annotated[str, typer.Option(help="Name of the MqttBroker.", metavar="NAME")] = "mqtt",
) -> None:
    """Convert a mosquitto.conf.

    Reads the file and the directories that it includes. Password and ACL files, certificates and
    keys are checked and stay where they are; with --to mqttbroker their content goes into Secrets.
    What has no equivalent is listed on standard error with its file and line, and what to do, and
    at the head of the file that is written. Exit codes: 0 everything is carried over, 3 something
    is not (it is listed), 2 wrong usage, or a file that mosquitto could not use either.
    """
    from tidegate.convert import conversion, documents
    from tidegate.convert.conf_file import ConfError

    if not _BROKER_NAME.fullmatch(name):
        usage_error(f"--name {name}: expected lower-case letters, digits and inner hyphens")
    try:
        found = conversion.convert(file)
    except ConfError as error:
        usage_error(str(error))
    if to is Format.yaml:
        texts = {_CONFIG_NAME: documents.configuration(found, file)}
    else:
        texts = _resource(found, file, name)
    if output == _STDOUT:
        sys.stdout.write("---\n".join(texts.values()))
    else:
        _write(output, texts)
    _report(found.findings)
    if found.findings.remarks():
        raise typer.Exit(EXIT_REMARKS)


def _resource(found: Conversion, file: Path, name: str) -> dict[str, str]:
    from tidegate.convert import documents
    from tidegate.convert.conf_file import Line
    from tidegate.convert.resource import make_resource

    whole = Line(file, 0, "", "")
    broker, secrets = make_resource(found.config, name, whole, found.findings)
    texts: dict[str, str] = {_RESOURCE_NAME: documents.resource(found, file, [broker])}
    if secrets:
        texts[_SECRETS_NAME] = documents.plain(secrets)
    return texts


def _write(directory: Path, texts: dict[str, str]) -> None:
    """Write new files; those with passwords and keys for their owner only."""
    for name in texts:
        if (directory / name).exists():
            usage_error(f"{directory / name} exists: delete it, or choose another directory")
    try:
        directory.mkdir(parents=True, exist_ok=True)
        for name, text in texts.items():
            mode = 0o600 if name == _SECRETS_NAME else 0o644
            handle = os.open(directory / name, os.O_WRONLY | os.O_CREAT | os.O_EXCL, mode)
            with os.fdopen(handle, "w", encoding="utf-8") as stream:
                stream.write(text)
            print_error(f"written: {directory / name}")
    except OSError as error:
        fail(f"{error.filename}: cannot be written: {error.strerror}")


def _report(findings: Findings) -> None:
    for note in findings.notes():
        print_error(f"note: {note}")
    for remark in findings.remarks():
        print_error(f"remark: {remark}")
    count = len(findings.remarks())
    if count:
        print_error(f"{count} remark{'' if count == 1 else 's'}: see above what to do")
