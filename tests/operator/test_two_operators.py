"""Two operators at once, as when a node comes back that was given up: they do no harm.

Input: one cluster, two reconcilers whose requests come in any order. Output: what is there when
both have looked again, and that neither finds anything left to write.
"""

from __future__ import annotations

import asyncio
import contextlib
import random
from typing import Any

import pytest
from cryptography import x509
from cryptography.exceptions import InvalidSignature

from support.brokers import NAMESPACE, spec_of
from support.operator_harness import Harness, harness
from tidegate_operator.kube.interface import KubeError
from tidegate_operator.reconcile.reconciler import Reconciler
from tidegate_operator.render.inputs import Settings, decoded

#: Rounds in which both must have come to rest.
ROUNDS = 4


class Slow:
    """A cluster whose every call takes a while, one operator's calls between the other's."""

    def __init__(self, cluster: Any, dice: random.Random) -> None:
        self._cluster = cluster
        self._dice = dice

    def __getattr__(self, name: str) -> Any:
        call = getattr(self._cluster, name)

        async def later(*arguments: Any, **options: Any) -> Any:
            for _ in range(self._dice.randrange(4)):
                await asyncio.sleep(0)
            return await call(*arguments, **options)

        return later


def operators(it: Harness, seed: int) -> list[Reconciler]:
    dice = random.Random(seed)
    return [
        Reconciler(
            Slow(it.cluster, dice),
            Settings("registry.example/tidegate:1"),
            lambda: it.now,
            it.admin,
        )
        for _ in range(2)
    ]


async def both(pair: list[Reconciler]) -> int:
    """Have both look at the same time; return how much they have written."""
    answers = await asyncio.gather(
        *(one.reconcile(NAMESPACE, "demo") for one in pair), return_exceptions=True
    )
    written = 0
    for answer in answers:
        # A conflict is tried again by the queue.
        if isinstance(answer, BaseException):
            assert isinstance(answer, KubeError), answer
            written += 1
        else:
            written += answer.applied + answer.deleted
    return written


async def settled(it: Harness, pair: list[Reconciler]) -> None:
    for _ in range(ROUNDS):
        await both(pair)
        it.make_ready()
    assert await both(pair) == 0
    assert it.conditions()["Ready"] == ("True", "Serving")
    assert it.conditions()["Degraded"] == ("False", "AsExpected")
    assert_that_edges_and_routers_trust_each_other(it)


def assert_that_edges_and_routers_trust_each_other(it: Harness) -> None:
    """Of two operators, one's authority could stand beside the other's certificates."""
    files = {
        component: decoded(it.fake.get("Secret", f"demo-{component}"))
        for component in ("edge", "router")
    }
    for one, other in (("edge", "router"), ("router", "edge")):
        trusted = x509.load_pem_x509_certificates(files[one]["link-ca.crt"])
        shown = x509.load_pem_x509_certificate(files[other]["link.crt"])
        signed_by = []
        for authority in trusted:
            with contextlib.suppress(InvalidSignature, ValueError):
                shown.verify_directly_issued_by(authority)
                signed_by.append(authority)
        assert signed_by, f"{one} does not trust {other}"


@pytest.mark.parametrize("seed", range(12))
@pytest.mark.parametrize("name", ["minimal", "headline"])
async def test_they_agree_on_a_new_broker(name: str, seed: int) -> None:
    it = await harness(name)
    await settled(it, operators(it, seed))


@pytest.mark.parametrize("seed", range(6))
async def test_they_agree_on_a_change_and_keep_what_must_stay(seed: int) -> None:
    it = await harness("headline")
    pair = operators(it, seed)
    await settled(it, pair)
    secrets = {name: it.fake.get("Secret", name)["data"] for name in ("demo-authorities",)}
    before = it.hashes()
    changed = spec_of("headline", edge={"replicas": 5}, limits={"receiveMaximum": 7})
    it.put_spec(changed)
    await settled(it, pair)
    assert it.fake.get("Deployment", "demo-edge")["spec"]["replicas"] == 5
    assert {name: it.fake.get("Secret", name)["data"] for name in secrets} == secrets
    assert it.hashes() == before, "a live change needs no new pods"
