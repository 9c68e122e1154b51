"""Starts a member: ``python -m tidegate_operator.store_member --name POD_NAME``."""

from __future__ import annotations

import argparse
import asyncio
import json
import logging
import sys
from pathlib import Path

from tidegate_operator.names import (
    CONFIG_DIR,
    FILES_DIR,
    STORE_CONFIG_FILE,
    STORE_DATA_DIR,
    STORE_MEMBER_FILE,
    STORE_RUN_DIR,
)
from tidegate_operator.store_member.member import Member, Settings


def main() -> int:
    """Run until SIGTERM; return the exit code."""
    arguments = _arguments()
    logging.basicConfig(
        level=logging.INFO, stream=sys.stderr, format="%(asctime)s %(levelname)s %(message)s"
    )
    member_file = arguments.config_dir / STORE_MEMBER_FILE
    members = tuple(json.loads(member_file.read_text(encoding="utf-8"))["members"])
    ordinal = int(arguments.name.rpartition("-")[2])
    settings = Settings(
        own=members[ordinal],
        members=members,
        config=arguments.config_dir / STORE_CONFIG_FILE,
        password=(arguments.files_dir / "password").read_bytes().strip(),
        data=arguments.data_dir,
        run=arguments.run_dir,
        member_file=member_file,
        program=arguments.program,
        bind=arguments.bind,
    )
    return asyncio.run(Member(settings).run())


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="tidegate_operator.store_member")
    parser.add_argument(
        "--name", required=True, help="name of the pod: its ordinal is the last part"
    )
    parser.add_argument("--bind", default="", help="address to listen on; default: all")
    parser.add_argument("--program", default="valkey-server", help="the program that is Sentinel")
    for name, default in (
        ("config", CONFIG_DIR),
        ("files", FILES_DIR),
        ("data", STORE_DATA_DIR),
        ("run", STORE_RUN_DIR),
    ):
        parser.add_argument(f"--{name}-dir", type=Path, default=Path(default))
    return parser.parse_args()


if __name__ == "__main__":
    sys.exit(main())
