"""The page of the console in Chromium, against a real cluster of three edges and two routers.

Pictures of every screen, wide and narrow, light and dark, are left in build/console-page.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import signal
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from playwright.sync_api import Browser, Locator, Playwright, expect, sync_playwright

from support.broker import Tidegate
from support.certificates import Certificates
from support.console import Api
from support.console_page import (
    DEADLINE_MS,
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

SCREENS = {
    "overview": "",
    "clients": "clients",
    "client": "clients/pump-offline",
    "retained": "topics?topic=open%2Fpump%2Fstate",
    "sample": "topics?tab=sample&filter=open%2F%23",
    "receivers": "topics?tab=receivers&topic=open%2Fpump%2Fstate",
    "groups": "groups",
    "group": "groups/workers%2Fjobs%2F%23",
    "socket": "socket",
    "nodes": "nodes",
    "listeners": "listeners",
    "bans": "bans",
    "audit": "audit",
    "settings": "settings",
    "tokens": "tokens",
}
#: Notes the longest time between two frames in window.longest.
_LONGEST_FRAME = """() => {
    window.longest = 0
    let before = performance.now()
    const look = now => {
        window.longest = Math.max(window.longest, now - before)
        before = now
        requestAnimationFrame(look)
    }
    requestAnimationFrame(look)
}"""
#: The reason code of a DISCONNECT.
USE_ANOTHER_SERVER = 0x9C
SIZES = {"wide": {"width": 1440, "height": 900}, "narrow": {"width": 390, "height": 844}}


@pytest.fixture(scope="module")
def server(certificates: Certificates) -> Iterator[Tidegate]:
    """Yield the cluster, with clients, retained messages and a queue that is full."""
    build()
    with running(certificates) as cluster:
        with connected(cluster, "pump-offline", "open/#", expiry_s=3600):
            pass
        with connected(cluster, "pump-1", "open/pump/+", "$share/workers/jobs/#", expiry_s=3600):
            with connected(cluster, "feeder") as feeder:
                for number in range(30):
                    body = json.dumps({"bar": 7.1, "number": number})
                    feeder.publish("open/pump/state", body, 1, retain=True).wait_for_publish(30)
            yield cluster


@pytest.fixture(scope="module")
def playwright() -> Iterator[Playwright]:
    with sync_playwright() as started:
        yield started


@pytest.fixture(scope="module")
def browser(playwright: Playwright, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Browser]:
    found = launch(playwright, tmp_path_factory.mktemp("downloads"))
    yield found
    found.close()


@pytest.fixture(scope="module")
def sessions(browser: Browser, server: Tidegate) -> Callable[[str], Any]:
    """Return the cookies of a user who has logged in, once for the module."""
    kept: dict[str, Any] = {}

    def of(user: str) -> Any:
        if user not in kept:
            context = browser.new_context()
            console = Console.open(context, console_url(server))
            console.log_in(user)
            expect(console.page.get_by_role("heading", level=1)).to_contain_text("Overview")
            kept[user] = context.storage_state()
            context.close()
        return kept[user]

    return of


Opener = Callable[..., Console]


@pytest.fixture
def opened(browser: Browser, server: Tidegate, sessions: Callable[[str], Any]) -> Iterator[Opener]:
    """Return a function that opens the page as a user; at the end nothing may have gone wrong."""
    consoles: list[Console] = []

    def open_as(user: str = "admin", **options: Any) -> Console:
        state = sessions(user) if user else None
        context = browser.new_context(storage_state=state, **options)
        consoles.append(Console.open(context, console_url(server)))
        return consoles[-1]

    yield open_as
    for console in consoles:
        console.page.context.close()
    assert [error for console in consoles for error in console.errors] == []


def web_socket(server: Tidegate, listener: str) -> str:
    return f"{listener}://127.0.0.1:{server.address(listener).port}/mqtt"


def connect(console: Console, url: str, version: str = "MQTT 5.0", **fields: str) -> None:
    """Make a new connection in the WebSocket client, and connect."""
    page = console.page
    page.goto(f"{console.url}/#/socket")
    page.get_by_role("button", name="New", exact=True).click()
    dialog = page.get_by_role("dialog")
    dialog.get_by_label("Address").fill(url)
    dialog.get_by_label("Version", exact=True).select_option(version)
    for label, value in fields.items():
        dialog.get_by_label(label.replace("_", " "), exact=True).fill(value)
    dialog.get_by_role("button", name="Save").click()
    page.get_by_role("button", name="Connect", exact=True).click()


def subscribe(console: Console, topic_filter: str) -> None:
    console.page.get_by_role("textbox", name="Topic filter").fill(topic_filter)
    console.page.get_by_role("button", name="Subscribe", exact=True).click()


def why(console: Console) -> Locator:
    """Return the card that says why."""
    page = console.page
    return page.locator("section.card").filter(has=page.get_by_role("heading", name="Why"))


def is_ready(server: Tidegate, before: int) -> bool:
    """Whether another console than ``before`` runs, and has reached its store."""
    with contextlib.suppress(AssertionError, OSError):
        return (
            pid_of(server, "console") != before
            and Api(console_url(server)).get("//readyz").status == 200
        )
    return False


# Who gets in


def test_a_wrong_password_is_refused_and_a_right_one_opens_the_overview(opened: Opener) -> None:
    console = opened("")
    console.log_in("viewer", "wrong")
    expect(console.page.get_by_role("alert")).to_contain_text("password")
    assert console.serious() == []
    console.picture("login")
    console.log_in("viewer")
    expect(console.page.get_by_role("heading", level=1)).to_contain_text("Overview")
    console.page.get_by_role("button", name="Log out").click()
    expect(console.page.get_by_label("User name")).to_be_visible()


def test_a_viewer_is_offered_nothing_that_changes_something(opened: Opener) -> None:
    console = opened("viewer")
    console.show("clients/pump-1")
    expect(console.page.get_by_text("Connected").first).to_be_visible()
    for name in ("Disconnect", "End session", "Ban"):
        expect(console.page.get_by_role("button", name=name, exact=True)).to_have_count(0)
    console.show("nodes")
    expect(console.page.get_by_role("button", name="Drain", exact=True)).to_have_count(0)


# How it looks


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("size", SIZES)
def test_every_screen_fits_and_has_nothing_serious(opened: Opener, size: str, scheme: str) -> None:
    console = opened(viewport=SIZES[size], color_scheme=scheme)
    found = {}
    for name, fragment in SCREENS.items():
        console.show(fragment)
        wide = console.page.evaluate("document.documentElement.scrollWidth")
        assert wide <= SIZES[size]["width"], f"{name} is {wide} wide"
        console.picture(f"{name}-{size}-{scheme}")
        found[name] = console.serious()
    assert {name: findings for name, findings in found.items() if findings} == {}


def test_the_conditions_of_the_resource_are_shown(opened: Opener) -> None:
    console = opened("viewer", timezone_id="Asia/Kolkata")
    console.show("")
    table = console.page.get_by_role("table", name="MqttBroker iot/demo")
    expect(table).to_contain_text("CertificatesReady")
    expect(table).to_contain_text("EndsSoon")
    # And what is to be done first, with its time in the reader's zone.
    said = console.page.locator(".finding").filter(has_text="has a certificate that ends soon")
    expect(said).to_contain_text("at 2026-11-30 16:12:07 (UTC+5:30)")


def test_the_page_is_used_with_the_keyboard_alone(opened: Opener) -> None:
    console = opened()
    page = console.page
    console.show("nodes")
    page.keyboard.press("Tab")
    expect(page.get_by_role("link", name="To the content")).to_be_focused()
    page.keyboard.press("Enter")
    expect(page.get_by_role("main")).to_be_focused()
    drain = page.get_by_role("button", name="Drain", exact=True).first
    drain.focus()
    page.keyboard.press("Enter")
    expect(page.get_by_role("dialog")).to_contain_text("cannot be undone")
    page.keyboard.press("Escape")
    expect(page.get_by_role("dialog")).to_have_count(0)
    expect(drain).to_be_focused()


def test_colours_are_chosen_and_kept(opened: Opener) -> None:
    page = opened(color_scheme="light").page
    background = "getComputedStyle(document.body.parentElement).backgroundColor"
    light = page.evaluate(background)
    page.get_by_role("button", name="Dark").click()
    assert page.evaluate(background) != light
    page.reload()
    expect(page.get_by_role("button", name="Dark")).to_have_attribute("aria-pressed", "true")
    assert page.evaluate(background) != light


# Clients and topics


def test_clients_are_searched_and_one_is_looked_at_and_disconnected(
    opened: Opener, server: Tidegate
) -> None:
    console = opened()
    page = console.page
    with connected(server, "valve-7", "open/valve/#", expiry_s=3600) as client:
        console.show("clients")
        page.get_by_role("searchbox").fill("valve")
        expect(page.get_by_role("link", name="valve-7")).to_be_visible()
        expect(page.get_by_role("link", name="pump-1")).to_have_count(0)
        page.get_by_role("link", name="valve-7").click()
        expect(page.get_by_role("table", name="Subscriptions")).to_contain_text("open/valve/#")
        page.get_by_role("button", name="Disconnect", exact=True).click()
        dialog = page.get_by_role("dialog")
        expect(dialog).to_contain_text("Its session stays")
        gone = threading.Event()
        client.on_disconnect = lambda *_: gone.set()
        dialog.get_by_role("button", name="Disconnect").click()
        assert gone.wait(DEADLINE_MS / 1000)
        expect(page.get_by_text("is disconnected.")).to_be_visible()


def test_a_full_queue_is_seen_and_a_session_is_ended(opened: Opener, server: Tidegate) -> None:
    with connected(server, "late", "open/late", expiry_s=3600):
        pass
    with connected(server, "hasty") as hasty:
        for number in range(25):
            hasty.publish("open/late", f"message {number}", 1).wait_for_publish(30)
    console = opened()
    page = console.page
    console.show("clients/late")
    expect(page.get_by_role("table", name="Queue")).to_contain_text("message 7")
    expect(page.get_by_text(re.compile("^20 messages"))).to_be_visible()
    expect(why(console)).to_contain_text("queue is full")
    page.get_by_role("button", name="End session").click()
    expect(page.get_by_role("dialog")).to_contain_text("queued messages (20)")
    page.get_by_role("dialog").get_by_role("button", name="End session").click()
    expect(page.get_by_role("heading", level=1)).to_have_text("Clients")
    console.show("clients/late")
    expect(page.get_by_text("There is no such client")).to_be_visible()


def test_it_is_seen_why_a_client_gets_nothing(opened: Opener, server: Tidegate) -> None:
    console = opened()
    with connected(server, "short", "open/#", expiry_s=1):
        pass
    with connected(server, "forbidden", "secret/#", user="reader"):
        console.show("clients/forbidden")
        expect(why(console)).to_contain_text("does not let it read")
    with connected(server, "misspelt", "Open/Pump/#"):
        console.show("clients/misspelt")
        console.page.get_by_label("On this topic?").fill("open/pump/state")
        expect(why(console)).to_contain_text("upper and lower case differ")
    with contextlib.ExitStack() as stack:
        for _ in range(4):
            stack.enter_context(connected(server, "twin")).loop_stop()
        console.show("clients/twin")
        expect(why(console)).to_contain_text("wo clients use this client identifier")
        expect(console.page.get_by_role("main")).to_contain_text("Taken over")
        console.picture("why")
    console.show("clients/short")
    expect(why(console)).to_contain_text("ts session expired")


def test_retained_messages_are_a_tree_and_are_deleted_by_filter(
    opened: Opener, server: Tidegate
) -> None:
    with connected(server, "gardener") as client:
        for number in range(5):
            topic = f"garden/bed-{number}/soil"
            client.publish(topic, b'{"wet": true}', 1, retain=True).wait_for_publish(30)
    console = opened()
    page = console.page
    console.show("topics")
    page.get_by_role("button", name="Topics below garden").click()
    page.get_by_role("button", name="Topics below bed-3").click()
    page.get_by_role("button", name=re.compile("^soil")).click()
    expect(page.locator("pre.payload")).to_contain_text('"wet": true')
    page.get_by_role("button", name="Hex").click()
    expect(page.locator("pre.payload")).to_contain_text("7b 22 77 65 74")
    page.get_by_role("button", name="Delete by filter").click()
    dialog = page.get_by_role("dialog")
    dialog.get_by_label("Topic filter").fill("garden/+/soil")
    dialog.get_by_role("button", name="Delete all that match").click()
    expect(dialog).to_contain_text("Done: 5 messages deleted.")
    dialog.get_by_role("button", name="Close").last.click()
    expect(page.get_by_text("No retained message here")).to_be_visible()


def test_who_gets_a_message_and_what_is_being_published(opened: Opener, server: Tidegate) -> None:
    console = opened()
    page = console.page
    console.show("topics?tab=receivers&topic=open%2Fpump%2Fstate")
    row = page.get_by_role("row").filter(has_text="pump-offline")
    expect(row).to_contain_text("queued until it connects")
    page.get_by_role("button", name="Live sample").click()
    page.get_by_label("Topic filter").fill("open/sampled/#")
    page.get_by_role("button", name="Start").click()
    expect(page.get_by_text("Nothing yet")).to_be_visible()
    with connected(server, "source") as source:

        def publish_until_seen() -> bool:
            source.publish("open/sampled/x", b"caught", 1)
            page.wait_for_timeout(100)
            return page.get_by_text("caught").count() > 0

        assert any(publish_until_seen() for _ in range(100))


# The WebSocket client


@pytest.mark.parametrize("listener", ["ws", "wss"])
def test_the_browser_publishes_and_subscribes(
    opened: Opener, server: Tidegate, listener: str, tmp_path: Path
) -> None:
    console = opened()
    page = console.page
    connect(console, web_socket(server, listener), Name=f"over {listener}")
    subscribe(console, f"open/{listener}/#")
    subscribe(console, "jobs/+")
    page.get_by_label("Topic", exact=True).fill(f"open/{listener}/a")
    page.get_by_label("Payload", exact=True).fill('{"from": "browser"}')
    page.get_by_role("button", name="Publish", exact=True).click()
    received = page.locator(".message.curve-1")
    expect(received).to_contain_text('{"from": "browser"}')
    received.click()
    expect(page.get_by_role("dialog").locator("pre.payload")).to_contain_text('"from": "browser"')
    page.keyboard.press("Escape")
    with page.expect_download() as download:
        page.get_by_role("button", name="Export").click()
    file = tmp_path / "messages.jsonl"
    download.value.save_as(file)
    lines = [json.loads(line) for line in file.read_text().splitlines()]
    assert {line["direction"] for line in lines} == {"sent", "received"}
    assert {line["payload"] for line in lines} == {'{"from": "browser"}'}
    console.picture(f"socket-over-{listener}")
    page.reload()
    expect(page.get_by_text(f"over {listener}").first).to_be_visible()


@pytest.mark.parametrize("listener", ["ws", "wss"])
def test_the_browser_speaks_mqtt_3_1_1_too(opened: Opener, server: Tidegate, listener: str) -> None:
    console = opened()
    page = console.page
    name = f"three-over-{listener}"
    connect(console, web_socket(server, listener), "MQTT 3.1.1", Name=name, Client_identifier=name)
    # What 3.1.1 does not have is not offered.
    expect(page.get_by_label("Content type")).to_have_count(0)
    subscribe(console, f"open/{name}/#")
    page.get_by_label("Topic", exact=True).fill(f"open/{name}/a")
    page.get_by_label("Payload", exact=True).fill("from the browser")
    page.get_by_role("button", name="Publish", exact=True).click()
    expect(page.locator(".message.curve-1")).to_contain_text("from the browser")
    client = page.request.get(f"{console.url}/api/v1/clients/{name}").json()
    assert (client["connection"]["version"], client["connection"]["transport"]) == (
        "3.1.1",
        listener,
    )
    # The other way: what somebody else publishes.
    with connected(server, "by-tcp") as other:
        other.publish(f"open/{name}/b", "from elsewhere", 1).wait_for_publish(30)
    expect(page.locator(".message").filter(has_text="from elsewhere")).to_be_visible()
    page.get_by_role("button", name="Disconnect", exact=True).click()
    expect(page.get_by_role("button", name="Connect", exact=True)).to_be_visible()
    # Its return codes are others than the reason codes of 5.0.
    reader = {"User_name": "reader", "Password": "wrong"}
    connect(console, web_socket(server, listener), "MQTT 3.1.1", **reader)
    expect(page.get_by_role("main").get_by_role("alert")).to_contain_text("password is wrong (4)")


def test_a_thousand_messages_a_second_stay_fluid(opened: Opener, server: Tidegate) -> None:
    console = opened()
    page = console.page
    with connected(server, "flood") as source:
        source.publish("flood/before", "retained", 1, retain=True).wait_for_publish(30)
        connect(console, web_socket(server, "ws"))
        subscribe(console, "flood/#")
        # It comes after SUBACK.
        expect(page.get_by_text("1 received")).to_be_visible()
        page.evaluate(_LONGEST_FRAME)
        for second in range(4):
            for number in range(1000):
                source.publish("flood/x", f"{second} {number}", 0)
            page.wait_for_timeout(1000)
        source.publish("flood/before", "", 1, retain=True).wait_for_publish(30)
    expect(page.get_by_text("4,002 received")).to_be_visible()
    assert page.locator(".message").count() < 60
    # A frame is 17 ms on an idle machine; a page that draws all rows stands still.
    assert page.evaluate("window.longest") < 3000
    page.get_by_label("Filter by text").fill("3 999")
    expect(page.locator(".message")).to_have_count(1)


def test_failures_are_explained_in_plain_words(opened: Opener, server: Tidegate) -> None:
    console = opened()
    page = console.page
    tcp = server.address("tcp").port
    for url, fields, words in (
        (f"ws://127.0.0.1:{tcp}/mqtt", {}, "which speaks MQTT over TCP"),
        (web_socket(server, "ws").replace("ws:", "wss:"), {}, "speaks no TLS"),
        (web_socket(server, "wss").replace("wss:", "ws:"), {}, "speaks TLS only"),
        (web_socket(server, "ws").replace("/mqtt", "/wrong"), {}, "listener answers at /mqtt"),
        ("ws://127.0.0.1:9/mqtt", {}, "Nothing accepts WebSockets"),
        (
            web_socket(server, "ws"),
            {"User_name": "reader", "Password": "wrong"},
            "password is wrong",
        ),
    ):
        connect(console, url, **fields)
        expect(page.get_by_role("main").get_by_role("alert")).to_contain_text(words)


# What steers the broker


def test_a_ban_takes_effect_and_is_lifted(opened: Opener, server: Tidegate) -> None:
    console = opened()
    page = console.page
    with connected(server, "noisy") as client:
        gone = threading.Event()
        client.on_disconnect = lambda *_: gone.set()
        console.show("clients/noisy")
        page.get_by_role("button", name="Ban", exact=True).click()
        dialog = page.get_by_role("dialog")
        dialog.get_by_label("Reason").fill("sends nonsense")
        dialog.get_by_role("button", name="Ban", exact=True).click()
        assert gone.wait(DEADLINE_MS / 1000)
    expect(why(console)).to_contain_text("is banned")
    console.show("bans")
    row = page.get_by_role("row").filter(has_text="noisy")
    expect(row).to_contain_text("sends nonsense")
    row.get_by_role("button", name="Lift").click()
    page.get_by_role("dialog").get_by_role("button", name="Lift").click()
    expect(row).to_have_count(0)
    console.show("audit")
    expect(page.get_by_role("row").filter(has_text="client noisy").first).to_be_visible()


def test_a_token_is_made_shown_once_and_opens_the_page(opened: Opener) -> None:
    console = opened()
    page = console.page
    console.show("tokens")
    page.get_by_role("button", name="New token").click()
    dialog = page.get_by_role("dialog")
    dialog.get_by_label("Name").fill("wall display")
    dialog.get_by_role("button", name="Make").click()
    token = dialog.locator("code").inner_text()
    assert token.startswith("tgc_")
    dialog.get_by_role("button", name="Close").last.click()
    expect(page.get_by_role("row").filter(has_text="wall display")).to_contain_text("viewer")
    display = opened("")
    display.page.goto(f"{display.url}/#token={token}")
    expect(display.page.get_by_role("heading", level=1)).to_contain_text("Overview")
    assert token not in display.page.url
    expect(display.page.get_by_role("link", name="Tokens")).to_have_count(0)


def test_clients_are_shed_from_an_edge(opened: Opener, server: Tidegate) -> None:
    console = opened("operator")
    page = console.page
    left: dict[str, int] = {}

    def note(name: str) -> Callable[[Any, Any, Any, Any, Any], None]:
        def left_with(_client: Any, _data: Any, _flags: Any, reason: Any, _more: Any) -> None:
            left.setdefault(name, reason.value)

        return left_with

    with contextlib.ExitStack() as stack:
        for number in range(7):
            name = f"crowd-{number}"
            stack.enter_context(connected(server, name)).on_disconnect = note(name)
        nodes = page.request.get(f"{console.url}/api/v1/nodes").json()["items"]
        fullest = max(nodes, key=lambda node: node["clients"] or 0)
        console.show("nodes")
        heading = page.get_by_role("heading", name=fullest["name"])
        card = page.locator("section.card").filter(has=heading)
        card.get_by_role("button", name="Shed", exact=True).click()
        dialog = page.get_by_role("dialog")
        # Nothing happens before a number is given.
        expect(dialog.get_by_role("button", name="Shed", exact=True)).to_be_disabled()
        dialog.get_by_label("How many clients").fill(str(fullest["clients"]))
        dialog.get_by_role("button", name="Shed", exact=True).click()
        expect(page.get_by_text(f"{fullest['name']} sheds clients.")).to_be_visible()
        wait_for(lambda: bool(left), DEADLINE_MS / 1000, "a client is shed")
    shed, reason = next(iter(left.items()))
    assert reason == USE_ANOTHER_SERVER
    console.show(f"clients/{shed}")
    expect(page.get_by_text("Shed to another edge").first).to_be_visible()
    # The node serves on.
    console.show("nodes")
    expect(card).to_contain_text("Ready")


def test_a_drain_is_confirmed_and_shows_its_progress(opened: Opener, server: Tidegate) -> None:
    console = opened("operator")
    page = console.page
    console.show("nodes")
    card = page.locator("section.card").filter(has=page.get_by_role("heading", name="edge-3"))
    card.get_by_role("button", name="Drain", exact=True).click()
    page.get_by_role("dialog").get_by_role("button", name="Drain").click()
    expect(card.get_by_role("progressbar")).to_be_visible()
    expect(card).to_contain_text("All clients are disconnected.")
    console.picture("drained")
    os.kill(pid_of(server, "edge-3"), signal.SIGKILL)
    expect(card).to_contain_text("Ready")


def test_what_is_away_is_named_and_comes_back_by_itself(opened: Opener, server: Tidegate) -> None:
    console = opened()
    page = console.page
    console.show("nodes")
    router = pid_of(server, "router-2")
    os.kill(router, signal.SIGSTOP)
    try:
        expect(page.get_by_text("These do not answer:")).to_be_visible()
        expect(page.get_by_text("router-2: timeout")).to_be_visible()
    finally:
        os.kill(router, signal.SIGCONT)
    expect(page.get_by_text("These do not answer:")).to_have_count(0)
    console.show("clients")
    store = pid_of_store(server)
    os.kill(store, signal.SIGSTOP)
    try:
        expect(page.get_by_text("An answer takes long")).to_be_visible()
        expect(page.get_by_role("link", name="pump-offline")).to_be_visible()
    finally:
        os.kill(store, signal.SIGCONT)
    expect(page.get_by_text("An answer takes long")).to_have_count(0)
    # It is started again at once; the page may say meanwhile that it is away, and comes back.
    before = pid_of(server, "console")
    os.kill(before, signal.SIGKILL)
    wait_for(lambda: is_ready(server, before), DEADLINE_MS / 1000, "the next console")
    expect(page.get_by_text("The console does not answer.")).to_have_count(0)
    expect(page.get_by_role("link", name="pump-offline")).to_be_visible()
