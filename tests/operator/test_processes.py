"""What the operator writes, read by those it is written for: valkey-server, a router, an edge.

Only addresses are changed, because there are no Services here; certificates, passwords and the
admin token are those that were rendered.
"""

from __future__ import annotations

import datetime
import json
import ssl
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest
import redis
import yaml
from redis.backoff import NoBackoff
from redis.retry import Retry

from support import tools
from support.brokers import pick, rendered, secret_data, spec_of
from support.cluster import Node
from support.raw_client import RawClient
from support.store_server import StoreServer
from tidegate.edge.auth.password_file import set_user
from tidegate.runtime.config.file_version import digest_of
from tidegate.store.embedded import EmbeddedError, find_server
from tidegate_operator import names
from tidegate_operator.live_state import Pod
from tidegate_operator.pods.admin_client import AdminClient
from tidegate_operator.pods.config_state import UNAUTHORIZED, ReportedFile
from tidegate_operator.render import Manifest

SPEC: dict[str, Any] = spec_of(
    listeners=[
        {
            "name": "mqtt",
            "protocol": "auto",
            "tls": {"selfSigned": True, "ipAddresses": ["127.0.0.1"]},
        }
    ],
    auth={"passwords": {"secretName": "users"}},
    acl={"rules": "topic read public/#\nuser alice\ntopic readwrite #\n"},
    redis={"durability": "always"},
)


LINK = ("admin-token", "link.crt", "link.key", "link-ca.crt")
#: Which files a component reads.
NAMED = {
    "edge": {*LINK, "passwords", "acl", "listener.mqtt.crt", "listener.mqtt.key"},
    "router": {*LINK, "store-password"},
}


class Store(StoreServer):
    """valkey-server with the configuration that was rendered."""

    def __init__(self, directory: Path, manifests: list[Manifest]) -> None:
        super().__init__(str(find_server()), directory)
        files = directory / "files"
        write_files(files, manifests, "redis")
        text = pick(manifests, "ConfigMap", "demo-redis")["data"]["valkey.conf"]
        self.config = directory / "valkey.conf"
        text = text.replace(names.FILES_DIR, str(files)).replace(
            names.STORE_DATA_DIR, str(directory)
        )
        self.config.write_text(text)
        self.password = (files / "password").read_text()

    def _command_line(self) -> list[str]:
        # A pod has a network and a volume of its own; here only the Unix socket may be reached.
        return [
            *(self._program, str(self.config), *self._listening()),
            *("--loglevel", "warning"),
        ]

    def client(self) -> redis.Redis:
        return self.client_with(self.password)

    def client_with(self, password: str | None) -> redis.Redis:
        """Return a client that tries everything once."""
        once = Retry(NoBackoff(), 0)
        return redis.Redis(unix_socket_path=str(self.socket), password=password, retry=once)


def write_files(directory: Path, manifests: list[Manifest], component: str) -> None:
    directory.mkdir(parents=True)
    for name, content in secret_data(pick(manifests, "Secret", f"demo-{component}")).items():
        (directory / name).write_bytes(content)


def settings(directory: Path, manifests: list[Manifest], component: str) -> dict[str, Any]:
    """Return a component's configuration, with its files in ``directory``."""
    files = directory / "files"
    write_files(files, manifests, component)
    text = pick(manifests, "ConfigMap", f"demo-{component}")["data"][names.CONFIG_FILE]
    found: dict[str, Any] = yaml.safe_load(text.replace(names.FILES_DIR, str(files)))
    found["admin"] |= {"address": "127.0.0.1", "port": 0}
    return found


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Node, Node, Store, Path]]:
    try:
        find_server()
    except EmbeddedError:
        tools.missing("valkey-server")
    # Short, because the path of a Unix socket has about a hundred bytes.
    directory = tmp_path_factory.mktemp("op")
    users = directory / "users"
    set_user(users, "alice", "wonderland", "sha512", create=True)
    contents = {("Secret", "users"): {"passwords": users.read_bytes()}}
    now = datetime.datetime.now(datetime.UTC)
    manifests = rendered(SPEC, now=now, contents=contents)
    with ExitStack() as stack:
        places = {name: directory / name for name in ("redis", "router", "edge")}
        for place in places.values():
            place.mkdir()
        store = Store(places["redis"], manifests)
        stack.callback(store.stop)
        store.start()
        config = settings(places["router"], manifests, "router")
        config["store"]["url"] = store.url
        config["link"]["listen"] = "127.0.0.1:0"
        router = Node(places["router"], "router", "r", config)
        stack.callback(router.cleanup)
        router.start()
        config = settings(places["edge"], manifests, "edge")
        link = router.addresses["link"]
        config["link"]["routers"] = [f"{link.host}:{link.port}"]
        config["listeners"][0] |= {"address": "127.0.0.1", "port": 0}
        edge = Node(places["edge"], "edge", "e", config)
        stack.callback(edge.cleanup)
        edge.start()
        ca = directory / "ca.crt"
        ca.write_text(pick(manifests, "ConfigMap", "demo-ca")["data"]["ca.crt"])
        yield edge, router, store, ca


def ask(node: Node, path: str, token: str = "") -> tuple[int, str]:
    address = node.addresses["admin"]
    request = urllib.request.Request(f"http://{address.host}:{address.port}{path}")
    if token:
        request.add_header("Authorization", f"Bearer {token}")
    try:
        with urllib.request.urlopen(request, timeout=5) as answer:
            return answer.status, answer.read().decode()
    except urllib.error.HTTPError as error:
        with error:
            return error.code, ""


async def test_a_client_that_trusts_the_brokers_authority_publishes_and_subscribes(
    cluster: tuple[Node, Node, Store, Path], no_connection_is_left: None
) -> None:
    edge, _, _, ca = cluster
    address = edge.addresses["mqtt"]
    trusting = ssl.create_default_context(cafile=ca)
    client = await RawClient.open(f"tls://{address.host}:{address.port}", ssl_context=trusting)
    await client.connect("device", username="alice", password=b"wonderland")
    await client.subscribe(("news/#", 0))
    await client.publish("news/today", b"hello")
    await client.expect("PUBLISH", topic="news/today", payload=b"hello")


def test_pods_become_ready(cluster: tuple[Node, Node, Store, Path]) -> None:
    edge, router, _, _ = cluster
    for node in (edge, router):
        assert ask(node, "/readyz") == (200, "ready\n")
        assert ask(node, "/livez")[0] == 200


def test_the_admin_token_opens_the_admin_api(cluster: tuple[Node, Node, Store, Path]) -> None:
    edge, _, _, _ = cluster
    token = (edge.directory / "files" / "admin-token").read_text()
    assert ask(edge, "/status")[0] == 401
    status, text = ask(edge, "/status", token)
    assert status == 200
    # What the operator counts connections by.
    assert isinstance(json.loads(text)["clients"], int)


async def test_what_pods_say_they_use_is_what_was_rendered(
    cluster: tuple[Node, Node, Store, Path],
) -> None:
    """The operator compares digests with those of what it has written."""
    edge, router, _, _ = cluster
    for node, component in ((edge, "edge"), (router, "router")):
        files = node.directory / "files"
        token = (files / "admin-token").read_bytes()
        address = node.addresses["admin"]
        pod = Pod("p", component, "", True, False, "", address.host)
        async with AdminClient(address.port) as client:
            (answer,) = (await client.poll([pod], token)).values()
            refused = await client.poll([pod], b"another")
        assert list(refused.values()) == [UNAUTHORIZED]
        reported = answer.config
        assert reported is not None
        config = (node.directory / "tidegate.yaml").read_bytes()
        assert reported.config == ReportedFile(digest_of(config))
        assert reported.restart_needed == ()
        assert reported.files == {
            str(files / name): ReportedFile(digest_of((files / name).read_bytes()))
            for name in sorted(NAMED[component])
        }


async def test_an_edge_lets_clients_go_when_it_is_told_to(
    cluster: tuple[Node, Node, Store, Path], no_connection_is_left: None
) -> None:
    edge, _, _, ca = cluster
    address, admin = edge.addresses["mqtt"], edge.addresses["admin"]
    trusting = ssl.create_default_context(cafile=ca)
    client = await RawClient.open(f"tls://{address.host}:{address.port}", ssl_context=trusting)
    await client.connect("lonely", username="alice", password=b"wonderland")
    pod = Pod("p", "edge", "", True, False, "", admin.host)
    token = (edge.directory / "files" / "admin-token").read_bytes()
    async with AdminClient(admin.port) as operator:
        assert await operator.shed(pod, token, 5) == 1
    await client.expect("DISCONNECT")


def test_the_store_keeps_what_was_promised(cluster: tuple[Node, Node, Store, Path]) -> None:
    _, _, store, _ = cluster
    with store.client() as client:
        found = {
            name: client.config_get(name)[name]
            for name in ("appendonly", "appendfsync", "maxmemory-policy", "maxmemory")
        }
    assert found["appendonly"] == "yes"
    assert found["appendfsync"] == "always"
    assert found["maxmemory-policy"] == "noeviction"
    assert int(found["maxmemory"]) > 2**30


def test_the_store_asks_for_its_password(cluster: tuple[Node, Node, Store, Path]) -> None:
    _, _, store, _ = cluster
    with (
        store.client_with(None) as client,
        pytest.raises(redis.AuthenticationError),
    ):
        client.ping()
