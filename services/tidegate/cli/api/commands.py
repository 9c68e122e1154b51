"""Adds the commands of this room to ``tidegate ctl``. Called by ``cli.main``."""

from __future__ import annotations

from typing import Annotated

import typer

from tidegate.cli.api import broker, clients, topics


def add_to(app: typer.Typer) -> None:
    """Add all commands."""
    for command in (
        clients.clients,
        clients.sessions,
        clients.client,
        clients.why,
        clients.queue,
        clients.subs,
        topics.topic,
        topics.shared,
        topics.publish,
        topics.listen,
        clients.kick,
        broker.ban,
        broker.bans,
        broker.unban,
        broker.nodes,
        broker.drain,
        broker.top,
        broker.events,
        broker.audit,
    ):
        app.command()(command)
    app.add_typer(topics.retained)
    app.command()(completion)


def completion(
    shell: Annotated[str, typer.Argument(help="bash, zsh or fish.", metavar="SHELL")],
) -> None:
    """Print the completion of the command line for a shell.

    bash and zsh: source <(tidegate ctl completion bash); fish: tidegate ctl completion fish |
    source.
    """
    from typer._completion_shared import get_completion_script  # noqa: PLC0415 - rarely needed

    if shell not in {"bash", "zsh", "fish"}:
        raise typer.BadParameter("expected bash, zsh or fish", param_hint="SHELL")
    print(
        get_completion_script(prog_name="tidegate", complete_var="_TIDEGATE_COMPLETE", shell=shell)
    )
