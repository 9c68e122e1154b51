"""The console of a real broker: who may use it, what it says of nodes, and what it does to them."""

from __future__ import annotations

import contextlib
import http.client
import json
import os
import shutil
import signal
import socket
import ssl
import stat
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import paho.mqtt.client as mqtt
import pytest
from paho.mqtt.enums import CallbackAPIVersion

from support.broker import StartBroker, Tidegate
from support.certificates import Certificates, KeyPair
from support.console import Api, console_line, with_console
from support.ports import free_port
from support.waiting import wait_for
from tidegate.edge.auth.password_file import set_user

#: How long something may take that takes a second.
DEADLINE_S = 20.0


@pytest.fixture(scope="module")
def server(certificates: Certificates) -> Iterator[Tidegate]:
    """Yield a cluster of two edges and two routers with a console that has users and a token."""
    with tempfile.TemporaryDirectory(prefix="tg-", ignore_cleanup_errors=True) as name:
        directory = Path(name).resolve()
        users, tokens = directory / "users", directory / "tokens"
        for role in ("viewer", "operator", "admin"):
            set_user(
                users, role, f"secret of {role}", "argon2id", create=role == "viewer", role=role
            )
        tokens.write_text("# for programs\nadmin first\nviewer looks\noperator acts\n")
        pair = certificates.server
        tls = {"certificates": [{"certificate": str(pair.certificate), "key": str(pair.key)}]}
        settings = {
            "listeners": [
                {"name": "tcp", "port": 0},
                {"name": "tls", "protocol": "tls", "port": 0, "tls": tls},
            ],
            "auth": {"allow_anonymous": True},
            "store": {"data_dir": "data"},
            "admin": {"port": 0},
            "cluster": {"edges": 2, "routers": 2},
            "drain": {"rate": 5},
            "console": {
                # It is killed, and asked meanwhile: on a port that the system chooses, the near
                # end of a connection could take it.
                "port": free_port(),
                "users_file": "users",
                "tokens_file": "tokens",
                "allowed_hosts": ["console.example"],
            },
        }
        found = Tidegate(directory, settings, [], with_console())
        try:
            found.start()
            yield found
        finally:
            found.cleanup()


@pytest.fixture(scope="module")
def url(server: Tidegate) -> str:
    """Where the console is."""
    return console_line(server).split()[2]


@pytest.fixture(scope="module")
def admin(url: str) -> Api:
    """Yield a caller who may do everything."""
    api = Api(url, "first")
    # The state of the store is there as soon as the console has connected.
    wait_for(lambda: api.get("/audit").status == 200, DEADLINE_S, "the store")
    return api


def log_in(url: str, role: str) -> Api:
    """Return a caller with the cookie of a session, as a browser has it."""
    reply = Api(url).post("/login", {"user": role, "password": f"secret of {role}"})
    assert reply.status == 200, reply
    assert reply.body["role"] == role
    cookie = reply.headers["set-cookie"].split(";")[0]
    return Api(url, headers={"Cookie": cookie, "X-CSRF-Token": reply.body["csrf"]})


# Who may use it


def test_nobody_gets_in_without_a_token_or_a_session(url: str, admin: Api) -> None:
    paths = Api(url).get("/openapi.json").body["paths"]
    assert len(paths) > 10
    for path, operations in paths.items():
        for method in operations:
            target = path.removeprefix("/api/v1").replace("{", "").replace("}", "")
            reply = Api(url).call(method.upper(), target, {} if method == "post" else None)
            if path == "/api/v1/login":
                assert reply.status == 400
            else:
                assert (reply.status, reply.reason) == (401, "not_authenticated"), path
    assert Api(url, "wrong").get("/me").status == 401
    assert admin.get("/me").status == 200


def test_each_role_may_do_what_it_is_for_and_no_more(url: str, admin: Api) -> None:
    viewer, operator = Api(url, "looks"), Api(url, "acts")
    shed = "/nodes/no-such-node/shed"
    for path, allowed in (("/nodes", [viewer, operator, admin]), ("/tokens", [admin])):
        for api in (viewer, operator, admin):
            assert api.get(path).status == (200 if api in allowed else 403)
    assert viewer.post(shed, {"connections": 1}).reason == "not_permitted"
    assert operator.post(shed, {"connections": 1}).reason == "not_found"


def test_a_user_logs_in_changes_something_with_its_csrf_token_and_logs_out(url: str) -> None:
    user = log_in(url, "admin")
    assert user.get("/me").body == {
        "user": "admin",
        "role": "admin",
        "csrf": user.headers["X-CSRF-Token"],
        "can_log_out": True,
    }
    cookie = {"Cookie": user.headers["Cookie"]}
    body = {"name": "by a form", "role": "viewer"}
    for headers in ({}, {"X-CSRF-Token": "guessed"}):
        assert Api(url, headers=cookie | headers).post("/tokens", body).reason == "csrf"
    assert user.post("/tokens", body, Origin="http://evil.example").reason == "csrf"
    made = user.post("/tokens", body, Origin=url)
    assert made.status == 201
    assert Api(url, made.body["token"]).get("/me").body["role"] == "viewer"
    assert user.delete(f"/tokens/{made.body['id']}").status == 204
    assert Api(url, made.body["token"]).get("/me").status == 401
    assert user.post("/logout").status == 204
    assert user.get("/me").status == 401


def test_the_cookie_is_for_this_site_only_and_secure_behind_tls(url: str) -> None:
    body = {"token": "looks"}
    plain = Api(url).post("/login", body).headers["set-cookie"]
    secure = Api(url).post("/login", body, X_Forwarded_Proto="https").headers["set-cookie"]
    assert "HttpOnly" in plain
    assert "SameSite=strict" in plain
    assert "Secure" not in plain
    assert "Secure" in secure


def test_names_that_are_not_allowed_are_refused(url: str) -> None:
    port = url.rpartition(":")[2]
    api = Api(url, "looks")
    for host in ("127.0.0.1", f"localhost:{port}", "[::1]:80", f"console.example:{port}"):
        assert api.get("/me", Host=host).status == 200, host
    for host in ("evil.example", f"evil.example:{port}", "console.example.evil", ""):
        assert api.get("/me", Host=host).reason == "wrong_host", host


def test_too_many_failed_logins_are_refused_for_a_while(url: str) -> None:
    guesser = Api(url, source="127.0.0.2")
    # Each login takes a while where the machine is busy, and some are forgiven meanwhile.
    for attempt in range(40):
        body = {"user": f"guessed-{attempt}", "password": "guess"}
        refused = guesser.post("/login", body)
        if refused.reason != "wrong_credentials":
            break
    assert (refused.status, refused.reason) == (429, "too_many")
    assert attempt >= 10
    assert int(refused.headers["retry-after"]) > 0
    # Others log in, and tokens of programs go on.
    assert log_in(url, "viewer").get("/me").status == 200
    assert Api(url, "looks", source="127.0.0.2").get("/me").status == 200


def test_every_change_is_in_the_audit_with_who_what_and_from_where(
    server: Tidegate, url: str, admin: Api
) -> None:
    log_in(url, "viewer")  # there is a page after the first one
    created_now = admin.post("/tokens", {"name": "audited", "role": "operator"})
    assert created_now.status == 201, created_now
    made = created_now.body
    admin.delete(f"/tokens/{made['id']}")
    read = admin.get("/audit?limit=2")
    assert read.status == 200, read
    page = read.body
    deleted, created = page["items"]
    assert (created["user"], created["action"], created["target"]) == (
        "token:file-2",
        "create token",
        "audited",
    )
    assert (created["address"], created["outcome"]) == ("127.0.0.1", "done")
    assert deleted["action"] == "delete token"
    older = admin.get(f"/audit?limit=100&after={page['next']}").body["items"]
    assert created["id"] not in {entry["id"] for entry in older}
    assert made["token"] not in json.dumps([page, older])
    assert "console change" in server.stderr()
    assert made["token"] not in server.stderr()


def test_a_body_without_end_is_cut(url: str) -> None:
    big = b'{"token": "' + b"x" * (5 * 1024 * 1024) + b'"}'
    assert Api(url).post("/login", big).status == 413


# What it says


def test_the_overview_is_ok_and_names_every_node(admin: Api) -> None:
    wait_for(lambda: admin.get("/overview").body["rates"], DEADLINE_S, "rates")
    wait_for(lambda: admin.get("/overview").body["state"] == "ok", DEADLINE_S, "the state ok")
    overview = admin.get("/overview").body
    assert (overview["state"], overview["missing"]) == ("ok", [])
    assert {node["name"] for node in overview["nodes"]} == {
        "edge-1",
        "edge-2",
        "router-1",
        "router-2",
    }
    assert overview["store_reachable"]
    assert [each for each in overview["findings"] if each["level"] == "problem"] == []


def test_listeners_have_their_addresses_and_certificates(server: Tidegate, admin: Api) -> None:
    found = admin.get("/listeners").body["items"]
    assert sorted((each["node"], each["listener"]) for each in found) == [
        ("edge-1", "tcp"),
        ("edge-1", "tls"),
        ("edge-2", "tcp"),
        ("edge-2", "tls"),
    ]
    tls = next(each for each in found if each["listener"] == "tls")
    assert tls["addresses"] == [f"127.0.0.1:{server.address('tls').port}"]
    certificate = tls["tls"]["certificates"][0]
    assert "localhost" in certificate["names"]
    assert certificate["not_before"] < time.time() < certificate["not_after"]


def test_settings_in_force_say_what_they_mean_and_where_nodes_differ(admin: Api) -> None:
    found = {each["key"]: each for each in admin.get("/settings").body["items"]}
    rate = found["drain.rate"]
    assert (rate["value"], rate["default"], rate["is_default"]) == (5.0, 500.0, False)
    assert rate["description"] == "Clients disconnected per second."
    assert found["limits.max_in_flight"]["is_default"]
    assert found["admin.address"]["differs"].keys() < {"edge-1", "edge-2", "router-1", "router-2"}


def test_the_store_says_what_it_is_and_how_fast(admin: Api) -> None:
    found = admin.get("/store").body
    assert found["reachable"]
    (one,) = found["servers"]
    assert one["version"].startswith("Valkey ")
    assert one["append_only"]
    assert one["partitions"] == found["partitions"] == 64
    assert 0 < found["latency_ms"][0] < 1000
    assert found["history"]["state"] == "current"


def test_figures_have_what_clients_do(server: Tidegate, admin: Api) -> None:
    with connected(server, 1) as (client,):
        client.publish("figures/a", b"x", qos=1).wait_for_publish(DEADLINE_S)

        def newest(name: str) -> float:
            return float(admin.get(f"/figures?names={name}").body["series"][name][-1] or 0)

        wait_for(lambda: newest("messages_in_qos1") > 0, 2 * DEADLINE_S, "a rate")
        assert newest("connections") == 1
    found = admin.get("/figures").body
    assert all(len(values) == len(found["at"]) for values in found["series"].values())
    assert found["series"].keys() == found["descriptions"].keys()
    assert admin.get(f"/figures?since={found['at'][-2]}").body["at"] == found["at"][-1:]
    assert admin.get("/figures?names=nonsense").reason == "invalid"


def test_events_say_what_happened_to_clients(server: Tidegate, admin: Api) -> None:
    with connected(server, 1):
        pass

    def kinds() -> list[str]:
        items = admin.get("/events?client=console-0&limit=2").body["items"]
        return [each["kind"] for each in items]

    wait_for(lambda: kinds() == ["disconnected", "connected"], DEADLINE_S, "its end")
    (event,) = admin.get("/events?kind=connected&kind=refused&limit=1").body["items"]
    assert event["kind"] == "connected"
    assert event["listener"] == "tcp"
    following = admin.get("/events/newer").body
    assert following["items"] == []
    with connected(server, 1):
        newer = f"/events/newer?after={following['next']}"
        wait_for(lambda: admin.get(newer).body["items"], DEADLINE_S, "a new event")
    assert admin.get("/events?after=nonsense").reason == "invalid"


def test_why_says_what_is_wrong_and_what_has_happened(server: Tidegate, admin: Api) -> None:
    unknown = admin.get("/clients/no%2Fsuch/why").body
    assert unknown["client_id"] == "no/such"
    assert unknown["sentences"][0]["text"].startswith("nothing is known of a client")
    with connected(server, 1) as (client,):
        client.subscribe("halls/+/temperature", qos=1)
        events = "/clients/console-0/events?limit=1"
        wait_for(
            lambda: [one["kind"] for one in admin.get(events).body["items"]] == ["subscribed"],
            DEADLINE_S,
            "SUBACK",
        )
        well = admin.get("/clients/console-0/why?topic=halls/1/temperature").body
        assert (well["missing"], well["sentences"][0]["severity"]) == ([], "info")
        wrong = admin.get("/clients/console-0/why?topic=hall/1/temperature").body["sentences"]
        assert wrong[0]["severity"] == "error"
        assert "does not match hall/1/temperature" in wrong[0]["text"]
        assert wrong[0]["advice"]
        assert [each["kind"] for each in wrong][-1] == "subscribed"
    wait_for(
        lambda: admin.get(events).body["items"][0]["kind"] == "disconnected", DEADLINE_S, "its end"
    )
    gone = admin.get("/clients/console-0/why").body["sentences"][0]
    assert gone["text"].startswith("it is not connected since")


# What it does


def test_a_ban_ends_the_connection_and_is_why_until_it_is_deleted(
    server: Tidegate, url: str, admin: Api
) -> None:
    body = {"client": "console-0", "reason": "lost", "until": time.time() + 600}
    assert Api(url, "acts").post("/bans", body).reason == "not_permitted"
    with connected(server, 1) as (client,):
        made = admin.post("/bans", body)
        assert made.status == 201
        wait_for(lambda: not client.is_connected(), DEADLINE_S, "the end of the connection")
    assert [each["id"] for each in admin.get("/bans").body["items"]] == [made.body["id"]]
    first = admin.get("/clients/console-0/why").body["sentences"][0]
    assert first["text"].startswith("client console-0 is banned until")
    assert admin.delete(f"/bans/{made.body['id']}").status == 204
    assert admin.delete(f"/bans/{made.body['id']}").reason == "not_found"
    assert admin.get("/bans").body["items"] == []
    for wrong in ({}, {"client": "a", "user": "b"}, {"address": "10.0.0.300"}):
        assert admin.post("/bans", wrong).reason == "invalid"

    def connects() -> bool:
        with contextlib.suppress(AssertionError), connected(server, 1):
            return True
        return False

    wait_for(connects, DEADLINE_S, "CONNACK")


def test_a_node_that_hangs_is_missing_and_comes_back_by_itself(
    server: Tidegate, admin: Api
) -> None:
    pid = pid_of(server, "router-2")
    os.kill(pid, signal.SIGSTOP)
    try:
        started = time.monotonic()
        overview = admin.get("/overview").body
        assert time.monotonic() - started < 6
        assert overview["missing"] == ["router-2: timeout"]
        assert overview["state"] == "degraded"
        assert "router-2 does not answer: timeout" in {
            each["text"] for each in overview["findings"]
        }
        assert len(admin.get("/nodes").body["items"]) == 3
        assert admin.get("/store").status == 200
    finally:
        os.kill(pid, signal.SIGCONT)
    wait_for(lambda: not admin.get("/overview").body["missing"], DEADLINE_S, "all nodes")


def test_a_shed_and_a_drain_disconnect_clients_and_say_how_far_they_are(
    server: Tidegate, admin: Api
) -> None:
    def drain() -> dict[str, Any]:
        found: dict[str, Any] = admin.get(f"/nodes/{edge}").body["drain"]
        return found

    def clients() -> dict[str, Any]:
        return {each["name"]: each["clients"] for each in admin.get("/nodes").body["items"]}

    wait_for(lambda: not clients()["edge-1"] and not clients()["edge-2"], DEADLINE_S, "no clients")
    with connected(server, 12):
        nodes = clients()
        assert (nodes["edge-1"] + nodes["edge-2"], nodes["router-1"]) == (12, None)
        edge = "edge-1" if nodes["edge-1"] > nodes["edge-2"] else "edge-2"
        shed = admin.post(f"/nodes/{edge}/shed", {"connections": 1})
        assert (shed.status, shed.body) == (202, {"shedding": 1})
        begun = admin.post(f"/nodes/{edge}/drain")
        assert (begun.status, begun.body["draining"]) == (202, True)
        overview = admin.get("/overview").body
        assert any(
            each["node"] == edge and "draining" in each["text"] for each in overview["findings"]
        )
        wait_for(lambda: drain()["clients_left"] == 0, DEADLINE_S, "the end of the drain")
    assert not admin.get(f"/nodes/{edge}").body["ready"]
    assert admin.post("/nodes/router-1/drain").reason == "conflict"
    assert admin.post("/nodes/nobody/drain").reason == "not_found"
    actions = {(each["action"], each["target"]) for each in admin.get("/audit").body["items"]}
    assert {("shed", f"node {edge}"), ("drain", f"node {edge}")} <= actions
    # A drained edge is one again when it has been restarted.
    os.kill(pid_of(server, edge), signal.SIGKILL)
    wait_for(lambda: admin.get("/overview").body["state"] == "ok", DEADLINE_S, "the edge")


def test_a_console_that_is_killed_is_started_again_and_sessions_go_on(
    server: Tidegate, url: str
) -> None:
    user = log_in(url, "viewer")
    before = pid_of(server, "console")
    os.kill(before, signal.SIGKILL)

    def is_back() -> bool:
        try:
            reply = user.get("/me")
        except OSError:
            return False
        # Not 401: a page would take it for the end of the session.
        assert reply.status in {200, 503}
        return reply.status == 200

    wait_for(is_back, DEADLINE_S, "the session")
    assert pid_of(server, "console") != before


# On one machine, in one process


def test_serve_prints_a_token_once_and_goes_on_without_its_console(
    start_broker: StartBroker,
) -> None:
    settings = {
        "console": {"port": 0, "conditions_file": "conditions.json"},
        "listeners": [{"name": "tcp", "port": 0}],
    }
    broker = start_broker(environment=with_console(), **settings)
    first = Api.of(broker)
    assert "/#token=tgc_" in console_line(broker)
    assert first.get("/overview").body["resource"] is None
    conditions = [dict.fromkeys(("reason", "message", "lastTransitionTime"), "")]
    conditions[0] |= {"type": "Degraded", "status": "True", "message": "no Secret"}
    resource = {"name": "demo", "namespace": "iot", "generation": 1, "observedGeneration": 1}
    (broker.directory / "conditions.json").write_text(
        json.dumps(resource | {"lastSeen": "", "conditions": conditions})
    )
    overview = first.get("/overview").body
    assert overview["resource"]["name"] == "demo"
    assert any("no Secret" in finding["text"] for finding in overview["findings"])
    assert first.get("/me").body["role"] == "admin"
    (node,) = first.get("/nodes").body["items"]
    assert (node["role"], node["ready"]) == ("serve", True)
    wait_for(lambda: "console.yaml digest" in broker.stderr(), DEADLINE_S, "the chosen port read")
    assert "restart_needed" not in broker.stderr()
    console = pid_of(broker, "console")
    # Clients go before people who look at them.
    assert os.getpriority(os.PRIO_PROCESS, console) > os.getpriority(os.PRIO_PROCESS, broker.pid)
    file = broker.directory / "data" / "console-tokens"
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    page = first.get("//", Accept="text/html")
    assert page.status == 200
    assert "default-src 'none'" in page.headers["content-security-policy"]
    broker.restart()
    assert console_line(broker).endswith(f"(token in {file})")
    again = Api.of(broker)
    assert again.token == first.token
    assert again.get("/me").status == 200


def test_while_the_store_hangs_sessions_go_on_and_say_so_and_all_is_well_after_it(
    start_broker: StartBroker,
) -> None:
    settings = {"console": {"port": 0}, "listeners": [{"name": "tcp", "port": 0}]}
    broker = start_broker(environment=with_console(), **settings)
    first = Api.of(broker)
    # Perhaps before the console has connected to the store: it is one session all the time.
    reply = first.post("/login", {"token": first.token})
    user = Api(first.url, headers={"Cookie": reply.headers["set-cookie"].split(";")[0]})
    wait_for(lambda: user.get("/store").body["reachable"], DEADLINE_S, "the store")
    pid = json.loads((broker.directory / "data" / "valkey.pid.json").read_text())["pid"]
    os.kill(pid, signal.SIGSTOP)
    try:
        found = user.get("/store")
        assert (found.status, found.body["reachable"]) == (200, False)
        assert found.body["problem"]
        assert user.get("/me").status == 200
        wait_for(
            lambda: user.get("/overview").body["state"] == "down", 2 * DEADLINE_S, "state down"
        )
        assert user.get("/audit").reason == "store_unavailable"
    finally:
        os.kill(pid, signal.SIGCONT)
    wait_for(lambda: user.get("/overview").body["state"] == "ok", DEADLINE_S, "state ok")
    wait_for(lambda: user.get("/store").body["reachable"], DEADLINE_S, "the store again")
    wait_for(lambda: user.get("/audit").body["items"], DEADLINE_S, "the login in the audit")


def test_a_new_certificate_is_used_without_a_restart(
    start_broker: StartBroker, certificates: Certificates, tmp_path: Path
) -> None:
    def served() -> str:
        context = ssl.create_default_context(cafile=certificates.authority.certificate)
        with (
            socket.create_connection(("127.0.0.1", port), timeout=10) as plain,
            context.wrap_socket(plain, server_hostname="127.0.0.1") as secure,
        ):
            certificate = secure.getpeercert()
            assert certificate is not None
            return str(certificate["serialNumber"])

    def put(pair: KeyPair) -> None:
        shutil.copy(pair.key, tmp_path / "key.pem")
        shutil.copy(pair.certificate, tmp_path / "certificate.pem")

    put(certificates.server)
    console = {
        "port": 0,
        "tls_certificate": str(tmp_path / "certificate.pem"),
        "tls_key": str(tmp_path / "key.pem"),
    }
    listeners = [{"name": "tcp", "port": 0}]
    broker = start_broker(environment=with_console(), console=console, listeners=listeners)
    url = console_line(broker).split()[2]
    assert url.startswith("https://127.0.0.1:")
    port = int(url.removeprefix("https://127.0.0.1:").partition("/")[0])
    first = served()
    put(certificates.authority.server("localhost", file="renewed"))
    wait_for(lambda: served() != first, DEADLINE_S, "the new certificate")
    (tmp_path / "certificate.pem").write_text("nonsense")
    wait_for(lambda: "console.tls" in broker.stderr(), DEADLINE_S, "a warning")
    assert served() != first


def test_a_port_that_is_in_use_leaves_the_broker_running(start_broker: StartBroker) -> None:
    with socket.create_server(("127.0.0.1", 0)) as used:
        broker = start_broker(environment=with_console(), console={"port": used.getsockname()[1]})
        wait_for(
            lambda: "the broker goes on without it" in broker.stderr(), DEADLINE_S, "a warning"
        )
    admin = broker.address("admin")
    connection = http.client.HTTPConnection(admin.host, admin.port, timeout=10)
    connection.request("GET", "/readyz")
    assert connection.getresponse().status == 200
    connection.close()


# Helpers


@contextlib.contextmanager
def connected(server: Tidegate, count: int) -> Iterator[list[mqtt.Client]]:
    """Connect clients that do not come back."""
    address = server.address("tcp")
    clients = []
    try:
        for number in range(count):
            client = mqtt.Client(CallbackAPIVersion.VERSION2, f"console-{number}")
            client.connect(address.host, address.port)
            client.loop_start()
            clients.append(client)
            wait_for(client.is_connected, DEADLINE_S, "CONNACK")
        yield clients
    finally:
        for client in clients:
            client.disconnect()
            client.loop_stop()


def pid_of(server: Tidegate, name: str) -> int:
    """Return the process of a child by the name of its configuration file."""
    for pid in server.descendants():
        with contextlib.suppress(OSError):
            if f"/{name}.yaml".encode() in Path(f"/proc/{pid}/cmdline").read_bytes():
                return pid
    raise AssertionError(f"{name} does not run")
