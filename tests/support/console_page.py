"""The page of the console in headless Chromium: a cluster with everything on it, and a browser.

Playwright drives Debian's Chromium; the page is built by ``tools/console_page.py``, axe-core comes
from its ``node_modules``. Pictures and findings are left in ``build/console-page``.
"""

from __future__ import annotations

import contextlib
import json
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import paho.mqtt.client as mqtt
from paho.mqtt.enums import CallbackAPIVersion
from paho.mqtt.packettypes import PacketTypes
from paho.mqtt.properties import Properties
from playwright.sync_api import Browser, BrowserContext, Page, Playwright, expect

from support.broker import Tidegate
from support.certificates import Certificates
from support.console import console_line, with_console
from support.ports import free_port
from support.tools import locked, require, run_or_missing
from support.waiting import wait_for
from tidegate.edge.auth.password_file import set_user

ROOT: Final = Path(__file__).parents[2]
PICTURES: Final = ROOT / "build" / "console-page"
AXE: Final = ROOT / "services" / "console" / "node_modules" / "axe-core" / "axe.min.js"
#: How long something may take on a busy machine that takes a second.
DEADLINE_MS: Final = 30_000
DEADLINE_S: Final = DEADLINE_MS / 1000
PASSWORD: Final = "secret of {}"
expect.set_options(timeout=DEADLINE_MS)
#: What the ACL of the cluster denies to users of the WebSocket client.
ACL: Final = "topic readwrite #\nuser reader\ntopic read open/#\n"


def _condition(kind: str, status: str, reason: str, message: str) -> dict[str, str]:
    since = "2026-11-01T08:00:00Z"
    return {
        "type": kind,
        "status": status,
        "reason": reason,
        "message": message,
        "lastTransitionTime": since,
    }


#: What an operator would say of it.
RESOURCE: Final[dict[str, Any]] = {
    "name": "demo",
    "namespace": "iot",
    "generation": 3,
    "observedGeneration": 3,
    "lastSeen": "",
    "conditions": [
        _condition("Ready", "True", "Serving", "3 of 3 edges and 2 of 2 routers are ready."),
        _condition("Degraded", "False", "AsExpected", "No problems found."),
        _condition(
            "CertificatesReady",
            "True",
            "EndsSoon",
            "listener wss: certificate CN=demo ends at 2026-11-30T10:42:07Z; check what renews it.",
        ),
    ],
}


def build() -> None:
    """Build the page, once for all workers; skip where neither Node nor a registry is there."""
    with locked(f"console-page-{abs(hash(str(ROOT)))}"):
        run_or_missing("the page", [sys.executable, str(ROOT / "tools" / "console_page.py")])


@contextlib.contextmanager
def running(certificates: Certificates) -> Iterator[Tidegate]:
    """Run three edges, two routers and a console whose users are viewer, operator and admin."""
    with tempfile.TemporaryDirectory(prefix="tg-", ignore_cleanup_errors=True) as name:
        directory = Path(name).resolve()
        for role in ("viewer", "operator", "admin"):
            secret, users = PASSWORD.format(role), directory / "users"
            set_user(users, role, secret, "argon2id", create=role == "viewer", role=role)
        for user in ("reader", "writer"):
            passwords = directory / "passwords"
            set_user(passwords, user, PASSWORD.format(user), "argon2id", create=user == "reader")
        (directory / "acl").write_text(ACL)
        (directory / "conditions.json").write_text(json.dumps(RESOURCE))
        server = Tidegate(directory, _settings(certificates), [], with_console())
        try:
            server.start()
            yield server
        finally:
            server.cleanup()


def _settings(certificates: Certificates) -> dict[str, Any]:
    pair = certificates.server
    tls = {"certificates": [{"certificate": str(pair.certificate), "key": str(pair.key)}]}
    return {
        "listeners": [
            {"name": "tcp", "port": 0},
            {"name": "ws", "protocol": "ws", "port": 0},
            {"name": "wss", "protocol": "wss", "port": 0, "tls": tls},
        ],
        "auth": {"allow_anonymous": True, "password_file": "passwords", "acl_file": "acl"},
        "store": {"data_dir": "data"},
        "admin": {"port": 0},
        "cluster": {"edges": 3, "routers": 2},
        "drain": {"rate": 4},
        "limits": {"max_queued_messages": 20},
        "console": {
            # It is killed while pages ask it.
            "port": free_port(),
            "users_file": "users",
            "conditions_file": "conditions.json",
        },
    }


def console_url(server: Tidegate) -> str:
    """Where the console is."""
    return console_line(server).split()[2].partition("/#")[0]


def launch(playwright: Playwright, downloads: Path) -> Browser:
    """Start Chromium; it accepts the certificate of the tests."""
    return playwright.chromium.launch(
        executable_path=require("chromium"),
        downloads_path=downloads,
        args=["--no-sandbox", "--disable-gpu", "--ignore-certificate-errors"],
    )


@dataclass(slots=True)
class Console:
    """The page as one user sees it. ``errors`` is what the browser complained about."""

    page: Page
    url: str
    errors: list[str] = field(default_factory=list)

    @classmethod
    def open(cls, context: BrowserContext, url: str) -> Console:
        """Open the page."""
        context.set_default_timeout(DEADLINE_MS)
        console = cls(context.new_page(), url)
        # What the policy forbids, and every exception, is an error of the page.
        console.page.on("pageerror", lambda error: console.errors.append(str(error)))
        console.page.on(
            "console",
            lambda message: (
                console.errors.append(message.text)
                if "Content Security Policy" in message.text
                else None
            ),
        )
        console.page.goto(url)
        return console

    def log_in(self, user: str, password: str | None = None) -> None:
        """Log in as a user whose password is known."""
        self.page.get_by_label("User name").fill(user)
        self.page.get_by_label("Password", exact=True).last.fill(password or PASSWORD.format(user))
        self.page.get_by_role("button", name="Log in").click()

    def show(self, fragment: str) -> None:
        """Go to a screen, and wait until it has what it asked for."""
        self.page.goto(f"{self.url}/#/{fragment}")
        self.page.locator("h1").wait_for()
        expect(self.page.locator(".loading")).to_have_count(0)

    def picture(self, name: str) -> None:
        """Keep how it looks."""
        PICTURES.mkdir(parents=True, exist_ok=True)
        self.page.screenshot(path=PICTURES / f"{name}.png", full_page=True)

    def serious(self) -> list[str]:
        """Return what axe-core finds serious or critical."""
        if not self.page.evaluate("'axe' in window"):
            # Through the debugger, because the page's policy admits no other script.
            self.page.evaluate(AXE.read_text(encoding="utf-8"))
        found = self.page.evaluate(
            "async () => (await axe.run(document, {resultTypes: ['violations']})).violations"
        )
        return [
            f"{one['id']}: {node['html'][:160]} {json.dumps(node['failureSummary'])[:300]}"
            for one in found
            if one["impact"] in {"serious", "critical"}
            for node in one["nodes"]
        ]


@contextlib.contextmanager
def connected(
    server: Tidegate, name: str, *filters: str, expiry_s: int = 0, user: str = ""
) -> Iterator[mqtt.Client]:
    """Connect a client of MQTT 5 over TCP with its subscriptions (QoS 1)."""
    client = mqtt.Client(CallbackAPIVersion.VERSION2, name, protocol=mqtt.MQTTv5)
    if user:
        client.username_pw_set(user, PASSWORD.format(user))
    properties = Properties(PacketTypes.CONNECT)  # type: ignore[no-untyped-call]
    properties.SessionExpiryInterval = expiry_s
    granted: list[Any] = []
    client.on_subscribe = lambda *details: granted.append(details)
    address = server.address("tcp")
    client.connect(address.host, address.port, properties=properties)
    client.loop_start()
    try:
        wait_for(client.is_connected, DEADLINE_S, f"CONNACK of {name}")
        for one in filters:
            client.subscribe(one, 1)
        wait_for(lambda: len(granted) == len(filters), DEADLINE_S, f"SUBACKs of {name}")
        yield client
    finally:
        client.disconnect()
        client.loop_stop()


def pid_of(server: Tidegate, name: str) -> int:
    """Return the process of a child by the name of its configuration file."""
    return _pid(server, f"/{name}.yaml")


def pid_of_store(server: Tidegate) -> int:
    """Return the process of the embedded store."""
    return _pid(server, "valkey-server")


def _pid(server: Tidegate, words: str) -> int:
    for pid in server.descendants():
        with contextlib.suppress(OSError):
            if words.encode() in Path(f"/proc/{pid}/cmdline").read_bytes():
                return pid
    raise AssertionError(f"{words} does not run")
