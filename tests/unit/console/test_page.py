"""The files of the page: what is sent, how long it may be kept, and what is no file."""

from __future__ import annotations

import asyncio
import gzip
from dataclasses import dataclass
from pathlib import Path

import pytest
from fastapi import FastAPI
from starlette.types import Message, Scope

from tidegate.console import errors, page

SCRIPT = "assets/index-a1b2.js"
SOURCE = "let tide = 1\n" * 100


@dataclass(slots=True)
class Answer:
    status: int
    headers: dict[str, str]
    body: bytes


async def ask(directory: Path, path: str, **headers: str) -> Answer:
    """Ask the page's routes without a server."""
    app = FastAPI()
    errors.install(app)
    app.include_router(page.make_router(directory))
    sent: list[Message] = []
    given = [(name.replace("_", "-").encode(), value.encode()) for name, value in headers.items()]
    scope: Scope = {
        "type": "http",
        "method": "GET",
        "path": path,
        "raw_path": path.encode(),
        "root_path": "",
        "query_string": b"",
        "headers": given,
    }

    requests: list[Message] = [{"type": "http.request", "body": b"", "more_body": False}]

    async def receive() -> Message:
        if not requests:
            await asyncio.Event().wait()  # it does not disconnect
        return requests.pop()

    async def send(message: Message) -> None:
        sent.append(message)

    await app(scope, receive, send)
    found = {name.decode(): value.decode() for name, value in sent[0]["headers"]}
    return Answer(sent[0]["status"], found, b"".join(each.get("body", b"") for each in sent))


@pytest.fixture
def built(tmp_path: Path) -> Path:
    (tmp_path / "assets").mkdir()
    (tmp_path / SCRIPT).write_text(SOURCE)
    (tmp_path / "index.html").write_text("<!doctype html><title>Tidegate</title>")
    return tmp_path


async def test_scripts_are_compressed_for_who_takes_it_and_kept_for_ever(built: Path) -> None:
    plain = await ask(built, f"/{SCRIPT}")
    packed = await ask(built, f"/{SCRIPT}", accept_encoding="gzip, br")
    assert "content-encoding" not in plain.headers
    assert plain.body.decode() == SOURCE
    assert packed.headers["content-encoding"] == "gzip"
    assert gzip.decompress(packed.body).decode() == SOURCE
    for answer in (plain, packed):
        assert answer.headers["content-length"] == str(len(answer.body))
        assert answer.headers["content-type"].startswith("text/javascript")
        assert "immutable" in answer.headers["cache-control"]
        assert answer.headers["vary"] == "Accept-Encoding"


async def test_the_page_itself_is_asked_for_anew_at_all_its_addresses(built: Path) -> None:
    for path in ("/", "/clients"):
        answer = await ask(built, path, accept="text/html", accept_encoding="gzip")
        assert b"Tidegate" in answer.body
        assert answer.headers["cache-control"] == "no-cache"
    assert (await ask(built, "/clients", accept="application/json")).status == 404


@pytest.mark.parametrize("path", ["/api/v1/none", "/../../etc/passwd", "/assets/none.js", "/\0"])
async def test_what_is_no_file_of_the_page_is_not_found(built: Path, path: str) -> None:
    assert (await ask(built, path, accept="*/*")).status == 404


async def test_without_its_files_it_says_how_they_are_built(tmp_path: Path) -> None:
    answer = await ask(tmp_path, "/", accept="text/html")
    assert answer.status == 200
    assert b"make console" in answer.body
