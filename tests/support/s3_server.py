"""A store with the S3 protocol for tests: moto's server. It accepts any credentials."""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
from collections.abc import Iterator
from typing import Any, Final

from boto3.session import Session
from botocore.exceptions import BotoCoreError

from support import processes
from support.ports import free_port
from support.waiting import wait_for

BUCKET: Final = "bucket"
KEYS: Final = {"AWS_ACCESS_KEY_ID": "test", "AWS_SECRET_ACCESS_KEY": "test"}
REGION: Final = "us-east-1"
_DEADLINE_S: Final = 60.0


@contextlib.contextmanager
def running(address: str = "127.0.0.1") -> Iterator[str]:
    """Start a server with an empty bucket; yield its URL."""
    port = free_port()
    with processes.start(
        [sys.executable, "-m", "moto.server", "-H", address, "-p", str(port)],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        env={**os.environ, **KEYS, "AWS_REGION": REGION},
    ) as server:
        url = f"http://{address}:{port}"
        client = connected(url)

        def made() -> bool:
            # It may not have begun to listen.
            with contextlib.suppress(BotoCoreError):
                client.create_bucket(Bucket=BUCKET)
                return True
            return False

        try:
            wait_for(made, _DEADLINE_S, "the bucket is made")
            yield url
        finally:
            server.kill()


def connected(url: str) -> Any:
    """Return boto3's client of a server."""
    session = Session(*KEYS.values(), region_name=REGION)
    return session.client("s3", endpoint_url=url)
