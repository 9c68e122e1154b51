"""The README's first commands on Kubernetes: build, push, install, with nothing else set."""

from __future__ import annotations

import os
import re
import subprocess
from pathlib import Path

import pytest
import yaml

import tidegate
from support import helm
from support.brokers import pick
from tidegate_operator import __main__ as command

ROOT = Path(__file__).parents[2]
SECTION = (ROOT / "README.md").read_text(encoding="utf-8").partition("## On Kubernetes")[2]
BLOCKS = re.findall(r"^```sh\n(.*?)^```$", SECTION, re.MULTILINE | re.DOTALL)


@pytest.fixture
def ran(tmp_path: Path) -> list[str]:
    """Run the first commands with a docker that only notes what is asked of it; return lines."""
    programs = tmp_path / "bin"
    programs.mkdir()
    log = tmp_path / "docker.log"
    (programs / "docker").write_text(f'#!/bin/sh\necho "docker $*" >>{log}\n')
    real = helm.program()
    (programs / "helm").write_text(f'#!/bin/sh\nexec {real} "$@" --dry-run=client\n')
    for name in ("docker", "helm"):
        (programs / name).chmod(0o755)
    done = subprocess.run(
        ["sh", "-euc", BLOCKS[0]],
        cwd=ROOT,
        env={"PATH": f"{programs}:{os.environ['PATH']}", "HOME": str(tmp_path)},
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )
    assert done.returncode == 0, done.stderr
    return [*log.read_text().splitlines(), done.stdout]


def test_three_lines_build_push_and_install_the_same_image(ran: list[str]) -> None:
    (image,) = re.findall(r"^IMAGE=(\S+)$", BLOCKS[0], re.MULTILINE)
    assert image.endswith(f":{tidegate.__version__}")
    assert len(BLOCKS[0].splitlines()) == 4
    build, push, installed = ran
    assert build == f"docker build --tag {image} ."
    assert push == f"docker push {image}"
    manifests, _, notes = installed.partition("\nNOTES:")
    found = [
        one
        for one in yaml.safe_load_all(manifests.partition("MANIFEST:\n")[2])
        if one and "helm.sh/hook" not in one["metadata"].get("annotations", {})
    ]
    pod = pick(found, "Deployment", "tidegate")["spec"]["template"]["spec"]
    (container,) = pod["containers"]
    assert container["image"] == image
    assert command.parser().parse_args(container["args"]).image == image
    assert f"{image}: push it there, or set image.repository, image.tag" in notes


def test_files_and_options_of_the_commands_exist() -> None:
    commands = "\n".join(BLOCKS)
    for name in re.findall(r"(?:-f |install tidegate )(\S+)", commands):
        assert (ROOT / name).exists(), name
    assert "tidegate passwd -c /work/passwords alice" in commands
    assert "--from-file=passwords" in commands
