"""Pages that are open while a process of the broker is killed: they go on by themselves.

Inputs: a cluster of three edges and two routers, with the screens open that ask nodes, the store
and the live sample; SIGKILL of an edge, a router, the store, the console. Observed: what the pages
show of what happens after it. That they name what is missing meanwhile is in test_console_page:
what is killed is restarted too quickly to be seen.
"""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator

import pytest
from playwright.sync_api import Page, expect, sync_playwright

from support.broker import Tidegate
from support.certificates import Certificates
from support.console_page import (
    DEADLINE_S,
    Console,
    build,
    connected,
    console_url,
    launch,
    pid_of,
    pid_of_store,
    running,
)
from support.waiting import wait_for

#: The first test waits for npm, the build and the cluster.
pytestmark = pytest.mark.timeout(300)

#: What may be on a page only while something is away.
PASSING = (
    "These do not answer:",
    "An answer takes long",
    "The console does not answer.",
    "The store does not answer.",
)
SCREENS = {
    "nodes": "nodes",
    "clients": "clients?prefix=after-",
    "sample": "topics?tab=sample&filter=open%2F%23",
    "overview": "",
}


@pytest.fixture(scope="module")
def server(certificates: Certificates) -> Iterator[Tidegate]:
    build()
    with running(certificates) as cluster:
        yield cluster


@pytest.fixture(scope="module")
def pages(server: Tidegate, tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, Page]]:
    """Yield the screens, each open in a tab of its own that is never loaded again."""
    with sync_playwright() as playwright:
        browser = launch(playwright, tmp_path_factory.mktemp("downloads"))
        context = browser.new_context()
        first = Console.open(context, console_url(server))
        first.log_in("admin")
        expect(first.page.get_by_role("heading", level=1)).to_contain_text("Overview")
        consoles = {name: Console.open(context, console_url(server)) for name in SCREENS}
        for name, console in consoles.items():
            console.show(SCREENS[name])
            console.page.evaluate("window.opened = true")
        yield {name: console.page for name, console in consoles.items()}
        assert [error for console in consoles.values() for error in console.errors] == []
        browser.close()


def process(server: Tidegate, name: str) -> int:
    """Return the process that has this name now; 0: none, it is being restarted."""
    try:
        return pid_of_store(server) if name == "store" else pid_of(server, name)
    except AssertionError:
        return 0


@pytest.mark.parametrize("name", ["edge-2", "router-1", "store", "console"])
def test_open_pages_go_on_by_themselves_after_a_kill(
    server: Tidegate, pages: dict[str, Page], name: str
) -> None:
    before = process(server, name)
    os.kill(before, signal.SIGKILL)
    wait_for(lambda: process(server, name) not in {0, before}, DEADLINE_S, f"another {name}")
    with connected(server, f"after-{name}", expiry_s=60) as client:
        expect(pages["clients"].get_by_role("link", name=f"after-{name}")).to_be_visible()
        # Until the sample has been opened again it sees nothing.
        seen = pages["sample"].get_by_text(f"open/after/{name}").first
        wait_for(
            lambda: client.publish(f"open/after/{name}", "x", 1) and seen.is_visible(),
            DEADLINE_S,
            "a message in the sample",
        )
    for each in (f"edge-{number}" for number in (1, 2, 3)):
        heading = pages["nodes"].get_by_role("heading", name=each)
        card = pages["nodes"].locator("section.card").filter(has=heading)
        expect(card).to_contain_text("Ready")
    for page in pages.values():
        for words in PASSING:
            expect(page.get_by_text(words)).to_have_count(0)
        assert page.evaluate("window.opened"), "the page was loaded again"
