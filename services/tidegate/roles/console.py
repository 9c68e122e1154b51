"""``tidegate console``: the API of the whole broker and its page, in a process of its own.

The composition root of ``tidegate.console``. While nodes or the store are away it serves what there
is, and says what is missing: it is ready as soon as it listens.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from typing import ClassVar, Final

from tidegate.console.app import make_app
from tidegate.console.auth.audit import Audit
from tidegate.console.auth.authority import Authority
from tidegate.console.auth.files import problems_of_console_files
from tidegate.console.auth.shared import Shared
from tidegate.console.auth.users import Users
from tidegate.console.broker.deletions import Deletions
from tidegate.console.figures import Figures
from tidegate.console.nodes.pool import Nodes
from tidegate.console.parts import Parts
from tidegate.console.server import ConsoleServer
from tidegate.console.store_health import StoreHealth
from tidegate.console.store_link import StoreLink
from tidegate.roles import process
from tidegate.roles.process import Process
from tidegate.runtime.config.config_file import Role
from tidegate.runtime.config.model import Config
from tidegate.runtime.config.source import LoadedConfig
from tidegate.runtime.reload.file_watch import FileWatch

#: Errors with which the start of a console fails because of its environment.
STARTUP_ERRORS: Final[tuple[type[Exception], ...]] = (OSError,)


class ConsoleProcess(Process):
    """See the module's docstring."""

    role: ClassVar[str] = "console"
    command: ClassVar[Role] = "console"
    #: Where it listens, once it does.
    _port: int | None = None

    def prepared(self, config: Config) -> Config:
        """Leave port 0 as it is if the one that the system has chosen is written down in its place.

        ``tidegate serve`` does, for the next console: nothing waits for a restart.
        """
        if self.config.console.port == 0 and config.console.port == self._port:
            console = config.console.model_copy(update={"port": 0})
            return config.model_copy(update={"console": console})
        return config

    async def start(self, stack: contextlib.AsyncExitStack) -> str:
        """Build everything, listen, and connect to the store beside it."""
        console = self.config.console
        if problems := list(problems_of_console_files(console)):
            raise OSError("; ".join(problems))
        self.start_telemetry(stack)
        nodes = Nodes(
            console.edges, console.routers, console.token_file or self.config.admin.token_file
        )
        stack.push_async_callback(nodes.close)
        store = StoreLink(self.config.store)
        stack.push_async_callback(store.close)
        self.background(stack, store.run())
        figures = Figures(nodes)
        store_health = StoreHealth(lambda: self.config)
        self.background(stack, figures.run())
        self.background(stack, store_health.run())
        shared = Shared(lambda: store.access)
        stack.push_async_callback(shared.close)
        deletions = Deletions(nodes, store)
        stack.push_async_callback(deletions.close)
        audit = Audit(lambda: store.access)
        self.background(stack, audit.run())
        parts = Parts(
            config=lambda: self.config,
            nodes=nodes,
            store=store,
            authority=Authority(
                Users(console.users_file), console.tokens_file, shared, console.session_lifetime_s
            ),
            audit=audit,
            deletions=deletions,
            figures=figures,
            store_health=store_health,
            counters=self.counters,
            readiness=self.readiness,
            metrics=self.exporter.render,
        )
        server = ConsoleServer(make_app(parts), console)
        await server.start()
        self._port = server.port
        stack.push_async_callback(server.stop)
        if server.files:
            watch = FileWatch(
                "console.tls",
                server.files,
                server.reload_certificate,
                self.counters,
                config_status=self.config_status,
            )
            self.on_hangup(watch.trigger)
            self.background(stack, watch.run())
        return f"console={server.url}"

    async def drain(self, reason: str) -> None:
        """Nothing waits for it."""

    @property
    def grace_s(self) -> float:
        """It stops at once."""
        return 0.0

    def problem(self) -> str:
        """Nothing: without nodes and store it serves what there is."""
        return ""


def run(
    config: Config, announce: Callable[[str], None], loaded: LoadedConfig | None = None
) -> None:
    """Serve until SIGTERM or SIGINT. ``announce`` gets the line that says what is ready."""
    process.run(ConsoleProcess, config, announce, loaded)
