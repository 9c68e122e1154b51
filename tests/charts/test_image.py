"""The image: every package locked by its hash, and everything that pods run is in it."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path

import pytest
from packaging.requirements import Requirement

from support.brokers import rendered, spec_of
from tidegate_operator.render.pod_template import USER

ROOT = Path(__file__).parents[2]
DOCKERFILE = (ROOT / "Dockerfile").read_text(encoding="utf-8")
LOCKS = sorted((ROOT / "image").glob("*.lock"))


def locked(file: Path) -> dict[str, str]:
    """Return versions by name; every entry must have a hash."""
    found = {}
    for entry in re.split(r"\n(?=[a-z])", file.read_text(encoding="utf-8")):
        if entry.startswith("#"):
            continue
        head, *hashes = entry.replace("\\\n", "\n").split("\n")
        name, _, version = head.partition(";")[0].strip().partition("==")
        assert any("--hash=sha256:" in line for line in hashes), name
        found[name] = version.strip()
    return found


def wanted() -> list[Requirement]:
    """Return what the image is to have, by the project's own file."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    extras = project["optional-dependencies"]
    names = ("edge", "router", "otlp", "console", "all", "operator")
    lines = [*project["dependencies"], *(line for name in names for line in extras[name])]
    return [Requirement(line) for line in lines if not line.startswith("tidegate")]


def test_every_package_is_locked_by_its_hashes() -> None:
    assert [file.name for file in LOCKS] == ["requirements-build.lock", "requirements.lock"]
    for file in LOCKS:
        assert len(locked(file)) > 3
        assert "://" not in file.read_text(encoding="utf-8")


@pytest.mark.parametrize("requirement", wanted(), ids=lambda one: one.name)
def test_the_lock_has_what_the_project_asks_for(requirement: Requirement) -> None:
    versions = locked(ROOT / "image" / "requirements.lock")
    name = requirement.name.lower().replace("_", "-")
    assert name in versions, "run: make lock"
    assert requirement.specifier.contains(versions[name]), "run: make lock"


def test_nothing_is_installed_without_a_hash() -> None:
    installs = [line for line in re.split(r"\n(?=[A-Z])|&&", DOCKERFILE) if " install " in line]
    assert len(installs) == 3
    for line in installs:
        # What has no hash is our own wheel, which brings nothing along.
        assert "--require-hashes" in line or "--no-deps --no-index dist/*.whl" in line


def test_the_image_has_the_user_that_pods_run_as() -> None:
    assert f"USER {USER}:{USER}" in DOCKERFILE
    assert f"useradd --uid {USER}" in DOCKERFILE


def test_the_image_has_the_programs_that_pods_run() -> None:
    programs = {
        one["spec"]["template"]["spec"]["containers"][0]["command"][0]
        for one in rendered(spec_of())
        if one["kind"] in {"Deployment", "StatefulSet"}
    }
    assert programs == {"tidegate", "valkey-server"}
    assert "/opt/tidegate/bin/valkey-server" in DOCKERFILE
    assert "ENV PATH=/opt/tidegate/bin:$PATH" in DOCKERFILE


def test_only_what_is_needed_goes_to_the_builder() -> None:
    ignored = (ROOT / ".dockerignore").read_text(encoding="utf-8").splitlines()
    assert ignored[0] == "*"
    for word in re.findall(r"^COPY (?!--from)(.+) \S+$", DOCKERFILE, re.MULTILINE):
        for source in word.split():
            assert {f"!{source}", f"!{source.split('/')[0]}"} & set(ignored), source
