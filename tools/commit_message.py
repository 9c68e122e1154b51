#!/usr/bin/env python3
"""Checks the message of a commit, and installs itself as git's ``commit-msg`` hook.

``make setup`` calls ``--install``; git calls the hook, and the hook calls this file with the path
of the message. CONTRIBUTING.md has the rules in prose. Only the standard library is used: a hook
runs outside the virtual environment.
"""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path
from typing import Final

ROOT: Final = Path(__file__).resolve().parents[1]
LONGEST: Final = 72

#: Subjects that git writes itself; those with ``!`` disappear in an autosquash rebase.
_GITS_OWN: Final = re.compile(
    r"Merge (branch|branches|commit|commits|tag|tags|remote-tracking|pull request) "
    r'|(Revert|Reapply) "|(fixup|squash|amend)! '
)
_PREFIX_TAG: Final = re.compile(r"[A-Za-z][\w-]*(\([^)]*\))?!?:(\s|$)|\[[^]]*\]")
#: What ``git commit --verbose`` puts between the message and the diff.
_SCISSORS: Final = re.compile(r"^# -+ >8 -+$", re.MULTILINE)

_MARK: Final = "# Written by tools/commit_message.py --install"
_HOOK: Final = f"""\
#!/bin/sh
{_MARK}; it is replaced by the next make setup.
check="$(git rev-parse --show-toplevel)/tools/commit_message.py"
# A branch from before the check has no such file.
[ -f "$check" ] && command -v python3 >/dev/null || exit 0
exec python3 "$check" "$1"
"""


def problems(message: str) -> list[str]:
    """Return what is wrong with ``message``, one sentence each; empty if nothing is."""
    text = _SCISSORS.split(message, maxsplit=1)[0]
    lines = [line.rstrip() for line in text.splitlines() if not line.startswith("#")]
    while lines and not lines[0]:
        del lines[0]
    if not lines:
        return ["the message is empty"]
    subject = lines[0]
    if _GITS_OWN.match(subject):
        return []
    found = []
    if len(subject) > LONGEST:
        found.append(f"the subject has {len(subject)} characters; {LONGEST} are the limit")
    if subject.endswith("."):
        found.append("the subject ends in a period")
    if _PREFIX_TAG.match(subject):
        found.append("the subject starts with a tag; start with a verb in the imperative")
    elif subject[0].islower():
        found.append("the subject starts with a lower-case letter")
    if len(lines) > 1 and lines[1]:
        found.append("the second line is not empty; git takes it for a part of the subject")
    return found


def check(path: Path) -> int:
    """Check the message in ``path``; return the exit code."""
    found = problems(path.read_text(encoding="utf-8", errors="replace"))
    for problem in found:
        sys.stderr.write(f"commit message: {problem}\n")
    if found:
        sys.stderr.write(
            f"The rules are in CONTRIBUTING.md. The message is kept: git commit -eF '{path}'\n"
        )
    return 1 if found else 0


def install(root: Path) -> str:
    """Make ``root``'s git run the check before each commit; return a sentence about it.

    Nothing that is not ours is overwritten, and nothing fails: the set-up goes on without a hook.
    """
    if _git(root, "rev-parse", "--show-toplevel") not in {str(root), str(root.resolve())}:
        return "commit-message check not installed: this is not the top of a git checkout"
    if directory := _git(root, "config", "--get", "core.hooksPath"):
        return _by_hand(f"core.hooksPath is set ({directory})")
    hooks = _git(root, "rev-parse", "--git-path", "hooks")
    if hooks is None:
        return "commit-message check not installed: git does not say where its hooks are"
    hook = root / hooks / "commit-msg"
    try:
        if hook.is_symlink() or hook.exists():
            if hook.is_symlink() or _MARK not in hook.read_text(encoding="utf-8", errors="replace"):
                return _by_hand(f"there is a hook already ({hook})")
            if hook.read_text(encoding="utf-8") == _HOOK:
                return "commit-message check installed"
        hook.parent.mkdir(parents=True, exist_ok=True)
        hook.write_text(_HOOK, encoding="utf-8")
        hook.chmod(0o755)
    except OSError as error:
        return f"commit-message check not installed: {error}"
    return "commit-message check installed"


def _by_hand(reason: str) -> str:
    return (
        f"commit-message check not installed: {reason}; "
        'to have it, call from there: python3 tools/commit_message.py "$1"'
    )


def _git(root: Path, *arguments: str) -> str | None:
    """Return what git says, or None if it fails or is not there."""
    try:
        done = subprocess.run(
            ["git", *arguments], cwd=root, capture_output=True, text=True, check=False
        )
    except OSError:
        return None
    return done.stdout.strip() if done.returncode == 0 else None


def main(arguments: list[str]) -> int:
    """Run ``--install``, or check the file that is named; return the exit code."""
    match arguments:
        case ["--install"]:
            sys.stdout.write(install(ROOT) + "\n")
            return 0
        case [path]:
            return check(Path(path))
        case _:
            sys.stderr.write("usage: tools/commit_message.py --install | FILE\n")
            return 2


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
