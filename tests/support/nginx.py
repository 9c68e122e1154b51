"""Debian's nginx in front of the broker, as an ordinary process in a directory of its own."""

from __future__ import annotations

import contextlib
import socket
import subprocess
from collections.abc import Iterator
from pathlib import Path

from support import processes
from support.broker import Address
from support.ports import free_port
from support.tools import require
from support.waiting import wait_for

UPGRADE = """
            proxy_http_version 1.1;
            proxy_set_header Upgrade $http_upgrade;
            proxy_set_header Connection "upgrade";
            proxy_set_header Host $host;
"""
# With the port, as a widely copied recipe has it.
FORWARDED = "            proxy_set_header X-Forwarded-For $remote_addr:$remote_port;\n"


@contextlib.contextmanager
def nginx_before(target: Address, directory: Path, directives: str) -> Iterator[int]:
    """Yield the loopback port of an nginx that proxies ``/mqtt`` to ``target``."""
    program = require("nginx")
    port = free_port()
    directory.mkdir(parents=True, exist_ok=True)
    temporary = "".join(
        f"    {kind}_temp_path {directory}/{kind};\n"
        for kind in ("client_body", "proxy", "fastcgi", "uwsgi", "scgi")
    )
    configuration = directory / "nginx.conf"
    configuration.write_text(
        f"daemon off;\nmaster_process off;\nworker_processes 1;\npid {directory}/nginx.pid;\n"
        f"error_log {directory}/error.log;\n"
        "events { worker_connections 256; }\n"
        "http {\n    access_log off;\n"
        f"{temporary}"
        f"    server {{\n        listen 127.0.0.1:{port};\n"
        f"        location /mqtt {{\n            proxy_pass http://{target.host}:{target.port};\n"
        f"{directives}            proxy_read_timeout 60s;\n        }}\n    }}\n}}\n"
    )
    command = [
        program,
        "-p",
        str(directory),
        "-c",
        str(configuration),
        "-e",
        str(directory / "error.log"),
    ]
    process = processes.start(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        wait_for(lambda: _listens(port) or process.poll() is not None, 15, "nginx listens")
        assert process.poll() is None, (directory / "error.log").read_text()
        yield port
    finally:
        process.kill()
        process.wait(10)


def _listens(port: int) -> bool:
    try:
        socket.create_connection(("127.0.0.1", port), 1).close()
    except OSError:
        return False
    return True
