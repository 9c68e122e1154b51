"""The check of commit messages, and the hook that ``make setup`` installs (tools/)."""

from __future__ import annotations

import os
import runpy
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from support import tools

ROOT = Path(__file__).parents[2]
SCRIPT = ROOT / "tools" / "commit_message.py"
MODULE: dict[str, Any] = runpy.run_path(str(SCRIPT))
problems: Callable[[str], list[str]] = MODULE["problems"]
install: Callable[[Path], str] = MODULE["install"]

#: Git as it is on a machine without any settings, and with somebody who commits.
ENVIRONMENT = {name: text for name, text in os.environ.items() if not name.startswith("GIT_")} | {
    "GIT_CONFIG_GLOBAL": os.devnull,
    "GIT_CONFIG_NOSYSTEM": "1",
    **{f"GIT_{who}_NAME": "Alice" for who in ("AUTHOR", "COMMITTER")},
    **{f"GIT_{who}_EMAIL": "alice@example.com" for who in ("AUTHOR", "COMMITTER")},
}


@pytest.mark.parametrize(
    "message",
    [
        "Refuse topic alias 0",
        "Refuse topic alias 0\n\nWhy: it is a protocol error.\n",
        "X" * 72,
        "\n\n# a comment of git\nRefuse topic alias 0\n# another one\n",
        "Refuse topic alias 0\n# ------------------------ >8 ------------------------\ndiff\nx\n",
        "Say what `link: timeout` means",
        "Merge branch 'x' into a branch with a very long name, longer than anything should be.",
        'Revert "Refuse topic alias 0, and everything else that has ever been refused by it."',
        "fixup! refuse topic alias 0.",
        "squash! refuse topic alias 0.",
        "amend! refuse topic alias 0.",
        "16 partitions are enough for one server",
    ],
)
def test_a_good_message_passes(message: str) -> None:
    assert problems(message) == []


@pytest.mark.parametrize(
    ("message", "words"),
    [
        ("", "empty"),
        ("\n# only comments\n", "empty"),
        ("X" * 73, "73 characters"),
        ("Merge the two token buckets " + "X" * 50, "78 characters"),
        ("Refuse topic alias 0.", "period"),
        ("feat: refuse topic alias 0", "tag"),
        ("Fix(edge): refuse topic alias 0", "tag"),
        ("fix!: refuse topic alias 0", "tag"),
        ("[edge] Refuse topic alias 0", "tag"),
        ("refuse topic alias 0", "lower-case"),
        ("Refuse topic alias 0\nand more", "second line"),
    ],
)
def test_a_bad_message_is_refused_with_one_reason(message: str, words: str) -> None:
    (problem,) = problems(message)
    assert words in problem


@pytest.fixture
def checkout(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return a git checkout with the check in it and one commit."""
    tools.require("git")
    for name in set(os.environ) - set(ENVIRONMENT):
        monkeypatch.delenv(name)
    for name, text in ENVIRONMENT.items():
        monkeypatch.setenv(name, text)
    root = tmp_path / "checkout"
    (root / "tools").mkdir(parents=True)
    shutil.copy(SCRIPT, root / "tools")
    for arguments in (["init", "--quiet"], ["add", "."], ["commit", "--quiet", "-m", "Begin"]):
        assert git(root, *arguments).returncode == 0
    return root


def git(root: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        ["git", *arguments], cwd=root, capture_output=True, text=True, check=False
    )


def commit(root: Path, message: str) -> subprocess.CompletedProcess[str]:
    return git(root, "commit", "--quiet", "--allow-empty", "-m", message)


def test_the_hook_refuses_and_passes(checkout: Path) -> None:
    assert install(checkout) == "commit-message check installed"
    refused = commit(checkout, "feat: x")
    assert refused.returncode != 0
    assert "starts with a tag" in refused.stderr
    assert commit(checkout, "Refuse topic alias 0").returncode == 0


def test_the_hook_holds_in_worktrees(checkout: Path) -> None:
    assert git(checkout, "worktree", "add", "--quiet", "../other").returncode == 0
    other = checkout.parent / "other"
    assert install(other) == "commit-message check installed"
    for root in (checkout, other):
        assert commit(root, "feat: x").returncode != 0
        assert commit(root, "Refuse topic alias 0").returncode == 0


def test_a_branch_without_the_check_takes_every_message(checkout: Path) -> None:
    install(checkout)
    assert git(checkout, "rm", "--quiet", "tools/commit_message.py").returncode == 0
    assert commit(checkout, "feat: x").returncode == 0


def test_an_older_version_of_the_hook_is_replaced(checkout: Path) -> None:
    install(checkout)
    hook = checkout / ".git" / "hooks" / "commit-msg"
    current = hook.read_text()
    hook.write_text(current + "# an older one\n")
    assert install(checkout) == "commit-message check installed"
    assert hook.read_text() == current


@pytest.mark.parametrize("is_link", [False, True])
def test_somebody_elses_hook_stays(checkout: Path, is_link: bool) -> None:
    hook = checkout / ".git" / "hooks" / "commit-msg"
    hook.parent.mkdir(exist_ok=True)
    if is_link:
        hook.symlink_to(checkout / "of-another-tool")
    else:
        hook.write_text("#!/bin/sh\nexit 0\n")
    assert "there is a hook already" in install(checkout)
    assert is_link or hook.read_text() == "#!/bin/sh\nexit 0\n"
    assert not (checkout / "of-another-tool").exists()


def test_a_directory_of_hooks_that_is_configured_stays_as_it_is(checkout: Path) -> None:
    assert git(checkout, "config", "core.hooksPath", "../all-hooks").returncode == 0
    assert "core.hooksPath is set" in install(checkout)
    assert not (checkout.parent / "all-hooks").exists()


def test_nothing_is_installed_outside_a_checkout(checkout: Path) -> None:
    below = checkout / "vendor"
    below.mkdir()
    for root in (checkout.parent, below):
        assert "not the top of a git checkout" in install(root)
    assert not (checkout / ".git" / "hooks" / "commit-msg").exists()


def test_without_git_the_set_up_goes_on(checkout: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(checkout))
    assert "not installed" in install(checkout)
