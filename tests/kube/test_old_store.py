"""One external store takes another's place on a real API server, with pods that are fakes."""

from __future__ import annotations

import base64

import pytest

from support.brokers import spec_of
from support.kube.api import Object
from support.kube.fake_kubelet import FakeKubelet
from support.kube.space import Space

pytestmark = pytest.mark.usefixtures("operator")


def external(host: str, secret: str) -> Object:
    store = {"url": f"redis://{host}:6379", "passwordSecret": {"name": secret}}
    return spec_of(redis={"external": store})


def passwords(space: Space) -> set[bytes]:
    data = space.get("Secret", "demo-router")["data"]
    return {base64.b64decode(value) for name, value in data.items() if "password" in name}


def test_routers_keep_the_password_of_their_store_until_they_have_gone(
    space: Space, kubelet: FakeKubelet
) -> None:
    space.hold("Secret", "one", {"password": b"of the first"})
    space.hold("Secret", "two", {"password": b"of the second"})
    space.put("demo", external("a", "one"))
    space.until_settled("demo")
    kubelet.hold_starts(space.name)
    space.put("demo", external("b", "two"))
    space.until("demo", "Progressing", "RollingOut")
    space.wait(lambda: b"of the second" in passwords(space), "the new store's password")
    assert passwords(space) == {b"of the first", b"of the second"}
    kubelet.release_starts(space.name)
    space.until_settled("demo")
    space.wait(lambda: passwords(space) == {b"of the second"}, "the old password has gone")


def test_a_password_that_changes_replaces_no_router(space: Space) -> None:
    space.hold("Secret", "one", {"password": b"of before"})
    space.put("demo", external("a", "one"))
    space.until_settled("demo")
    pods = space.pod_uids("demo", "router")
    space.hold("Secret", "one", {"password": b"of now"})
    space.wait(lambda: passwords(space) == {b"of now"}, "the password is passed on")
    space.until_settled("demo")
    assert space.pod_uids("demo", "router") == pods
