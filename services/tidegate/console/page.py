"""The page: the files of ``web/static``, or a page that says how to build them.

Its routes are added last by ``app``, so that they hide none of the API. Paths without a file are
the page's own (it has screens with addresses).
"""

from __future__ import annotations

import functools
import gzip
import mimetypes
from http import HTTPStatus
from pathlib import Path
from typing import Final

from fastapi import APIRouter, Request
from starlette.responses import FileResponse, HTMLResponse, Response

from tidegate.console.errors import not_found

STATIC: Final = Path(__file__).parent / "web" / "static"
#: Files with a hash of their content in the name.
_ASSETS: Final = "assets/"

_MISSING: Final = """<!doctype html>
<html lang="en"><meta charset="utf-8"><title>Tidegate</title>
<h1>The page of the console is not built</h1>
<p>The API works: <a href="/api/v1/openapi.json">/api/v1/openapi.json</a>.</p>
<p>In a checkout of Tidegate, <code>make console</code> builds the page, and a reload shows it. The
released wheel and image have it.</p>
</html>
"""


def make_router(directory: Path = STATIC) -> APIRouter:
    """Return the routes of the page."""
    router = APIRouter(include_in_schema=False)

    @router.api_route("/{path:path}", methods=["GET", "HEAD"])
    def page(request: Request, path: str) -> Response:
        """Return a file, else the page itself to a browser that navigates."""
        if path.startswith("api/"):
            raise not_found(f"/{path} does not exist here")
        file = _file(directory, path)
        if file is not None:
            return _response(request, file, path)
        if "text/html" not in request.headers.get("accept", "") and path:
            raise not_found(f"/{path} does not exist here")
        index = directory / "index.html"
        if index.is_file():
            return _response(request, index, "index.html")
        return HTMLResponse(_MISSING, HTTPStatus.OK, {"Cache-Control": "no-store"})

    return router


def _file(directory: Path, path: str) -> Path | None:
    """Return a file inside the directory; None if there is none."""
    if not path or "\0" in path:
        return None
    file = directory / path
    try:
        inside = file.resolve().is_relative_to(directory.resolve())
        return file if inside and file.is_file() else None
    except OSError:
        return None


def _response(request: Request, file: Path, path: str) -> Response:
    cache = "public, max-age=31536000, immutable" if path.startswith(_ASSETS) else "no-cache"
    headers = {"Cache-Control": cache, "Vary": "Accept-Encoding"}
    if path.startswith(_ASSETS) and "gzip" in request.headers.get("accept-encoding", ""):
        kind, _ = mimetypes.guess_type(file.name)
        headers["Content-Encoding"] = "gzip"
        return Response(_compressed(file), media_type=kind, headers=headers)
    return FileResponse(file, headers=headers)


# Their names change with their content. What the API answers is not compressed: it has secrets.
@functools.lru_cache(maxsize=32)
def _compressed(file: Path) -> bytes:
    return gzip.compress(file.read_bytes(), mtime=0)
