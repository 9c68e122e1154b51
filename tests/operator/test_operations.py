"""What docs/operations.md tells people to do to a broker's own objects, done."""

from __future__ import annotations

import copy
import re
from pathlib import Path

import pytest
from cryptography import x509

from support.operator_harness import Harness, harness
from tidegate_operator import names
from tidegate_operator.render.inputs import decoded

ROOT = Path(__file__).parents[2]
DOCUMENT = (ROOT / "docs" / "operations.md").read_text(encoding="utf-8")


def authorities(it: Harness) -> dict[str, str]:
    data: dict[str, str] = it.fake.get("Secret", "demo-authorities")["data"]
    return data


def shown(it: Harness, component: str) -> x509.Certificate:
    files = decoded(it.fake.get("Secret", f"demo-{component}"))
    return x509.load_pem_x509_certificate(files["link.crt"])


def trusted(it: Harness, component: str) -> list[x509.Certificate]:
    files = decoded(it.fake.get("Secret", f"demo-{component}"))
    return x509.load_pem_x509_certificates(files["link-ca.crt"])


async def test_the_links_authority_is_made_anew_when_its_keys_are_deleted() -> None:
    it = await harness("headline")
    await it.settle()
    before = shown(it, "edge"), dict(authorities(it))
    for key in [key for key in authorities(it) if key.startswith("link-")]:
        del authorities(it)[key]
    await it.settle()
    assert shown(it, "edge") != before[0]
    for one, other in (("edge", "router"), ("router", "edge")):
        shown(it, other).verify_directly_issued_by(trusted(it, one)[0])
    kept = {key: value for key, value in before[1].items() if key.startswith("listeners-")}
    assert kept.items() <= authorities(it).items()


async def test_the_authority_for_clients_is_made_anew_when_its_keys_are_deleted() -> None:
    it = await harness("headline")
    await it.settle()
    before = it.fake.get("ConfigMap", "demo-ca")["data"]["ca.crt"]
    link = shown(it, "edge")
    for key in [key for key in authorities(it) if key.startswith("listeners-")]:
        del authorities(it)[key]
    await it.settle()
    assert it.fake.get("ConfigMap", "demo-ca")["data"]["ca.crt"] != before
    assert shown(it, "edge") == link
    assert it.conditions()["CertificatesReady"] == ("True", "Issued")


async def test_a_broker_made_anew_takes_over_its_authorities() -> None:
    it = await harness("headline")
    await it.settle()
    kept = copy.deepcopy(it.fake.get("Secret", "demo-authorities"))
    del kept["metadata"]["ownerReferences"]
    anew = await harness("headline")
    anew.fake.put({key: kept[key] for key in ("apiVersion", "kind", "metadata", "data")})
    await anew.settle()
    assert anew.conditions()["Degraded"] == ("False", "AsExpected")
    assert authorities(anew) == kept["data"]
    ca = "demo-ca"
    assert anew.fake.get("ConfigMap", ca)["data"] == it.fake.get("ConfigMap", ca)["data"]


def test_every_metric_that_is_named_exists() -> None:
    sources = "\n".join(
        file.read_text(encoding="utf-8")
        for root in ("services", "operator")
        for file in (ROOT / root).rglob("*.py")
    )
    found = set(re.findall(r"\btidegate_([a-z_]+)", DOCUMENT))
    assert len(found) > 10
    for name in sorted(found - {"operator"}):
        # The client library adds _total and _info.
        kinds = name, name.removesuffix("_total"), f"tidegate_{name.removesuffix('_info')}"
        assert any(f'"{kind}"' in sources for kind in kinds), name


@pytest.mark.parametrize("name", sorted(set(re.findall(r"examples/([a-z-]+\.yaml)", DOCUMENT))))
def test_every_example_that_is_named_exists(name: str) -> None:
    assert (ROOT / "examples" / name).exists()


def test_links_to_the_other_document_lead_somewhere() -> None:
    other = (ROOT / "docs" / "kubernetes.md").read_text(encoding="utf-8")
    for document, text in (("kubernetes.md", other), ("", DOCUMENT)):
        heads = {
            re.sub(r"[^a-z0-9 -]", "", head.lower()).replace(" ", "-")
            for head in re.findall(r"^#+ (.*)$", text, re.MULTILINE)
        }
        wanted = set(re.findall(rf"\]\({re.escape(document)}#([a-z0-9-]+)\)", DOCUMENT))
        assert wanted <= heads, wanted - heads


def test_the_labels_of_a_claim_are_those_that_select_it() -> None:
    """A StatefulSet's claims get the labels of its selector."""
    command = next(line for line in DOCUMENT.splitlines() if "delete pvc" in line)
    labels = dict(pair.split("=") for pair in command.split()[-1].split(","))
    assert labels.items() <= names.selector("demo", "redis").items()
