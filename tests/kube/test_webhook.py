"""An admission webhook of somebody else that is away, in front of what the operator writes."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from support.brokers import spec_of
from support.kube.api import Object, Refused
from support.kube.space import Space

pytestmark = pytest.mark.usefixtures("operator")


@pytest.fixture
def webhook(space: Space) -> Iterator[str]:
    """Have Deployments of the namespace asked about where nobody listens; return its name."""
    name = f"away-{space.name}"
    rule = {
        "apiGroups": ["apps"],
        "apiVersions": ["v1"],
        "operations": ["CREATE", "UPDATE"],
        "resources": ["deployments"],
    }
    one: Object = {
        "name": "deployments.away.example",
        # Nobody can listen on port 1 without being asked to.
        "clientConfig": {"url": "https://127.0.0.1:1/"},
        "rules": [rule],
        "namespaceSelector": {"matchLabels": {"kubernetes.io/metadata.name": space.name}},
        "failurePolicy": "Fail",
        "sideEffects": "None",
        "admissionReviewVersions": ["v1"],
        "timeoutSeconds": 2,
    }
    space.api.create(
        {
            "apiVersion": "admissionregistration.k8s.io/v1",
            "kind": "ValidatingWebhookConfiguration",
            "metadata": {"name": name},
            "webhooks": [one],
        }
    )
    yield name
    space.api.delete("ValidatingWebhookConfiguration", name)


def is_asked(space: Space) -> bool:
    """Whether the webhook is in force: it is some time after it was made."""
    labels = {"app": "probe"}
    template = {
        "metadata": {"labels": labels},
        "spec": {"containers": [{"name": "x", "image": "x"}]},
    }
    try:
        space.api.apply(
            {
                "apiVersion": "apps/v1",
                "kind": "Deployment",
                "metadata": {"name": "probe", "namespace": space.name},
                "spec": {"selector": {"matchLabels": labels}, "template": template},
            },
            dry_run=True,
        )
    except Refused as refused:
        return "deployments.away.example" in str(refused)
    return False


def test_a_webhook_that_is_away_is_named_and_waited_for(space: Space, webhook: str) -> None:
    space.wait(lambda: is_asked(space), "the webhook is asked")
    space.put("demo", spec_of())
    found = space.until("demo", "Degraded", "ApplyRefused", "True")
    assert "deployments.away.example" in found["message"]
    assert "Deployment demo-" in found["message"]
    assert space.listed("Deployment") == []
    space.api.delete("ValidatingWebhookConfiguration", webhook)
    space.until_settled("demo")
