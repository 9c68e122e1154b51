"""One edge or router: requests to its admin server.

Made by ``pool``. A node that does not answer in time, or not as an admin server does, raises
``NodeError`` with a few words for ``missing``.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, Final
from urllib.parse import urlencode

import aiohttp
from yarl import URL

from tidegate.runtime.config.referenced_files import read_token

Json = dict[str, Any]

#: How long a node may take to answer.
TIMEOUT_S: Final = 2.0
#: Largest answer that is taken: /metrics of an edge is the largest, but for pages of clients.
MAX_ANSWER_BYTES: Final = 16 * 1024 * 1024
UNIX: Final = "unix:"


class NodeError(Exception):
    """A node did not answer; the message is a few words: `timeout`, `connection refused`."""


class NodeClient:
    """See the module's docstring."""

    def __init__(self, address: str, token_file: Path | None) -> None:
        """``address`` is IP:PORT, or unix:PATH."""
        self.address = address
        #: The name that it said it has; its address until then.
        self.name = address
        self._token_file = token_file
        self._session: aiohttp.ClientSession | None = None

    async def close(self) -> None:
        """Drop the requests under way."""
        if self._session is not None:
            await self._session.close()

    async def ask(
        self,
        method: str,
        path: str,
        *,
        params: Mapping[str, str | int] | None = None,
        body: Json | None = None,
        timeout_s: float = TIMEOUT_S,
    ) -> tuple[int, bytes]:
        """Send one request; return status and body. ``path`` is percent-encoded. Raises NodeError.

        Statuses of the node itself that say that the console is configured wrongly raise, too.
        """
        async with self.stream(
            method, path, params=params, body=body, timeout_s=timeout_s
        ) as response:
            content = await _read(response)
            return response.status, content

    async def ask_json(
        self,
        method: str,
        path: str,
        *,
        params: Mapping[str, str | int] | None = None,
        body: Json | None = None,
        timeout_s: float = TIMEOUT_S,
    ) -> tuple[int, Json]:
        """Do the same, and decode the body; a text becomes ``{"error": text}``."""
        status, content = await self.ask(
            method, path, params=params, body=body, timeout_s=timeout_s
        )
        try:
            value = json.loads(content)
        except ValueError:
            if status < 400:
                raise NodeError("invalid answer") from None
            value = {"error": content.decode(errors="replace").strip()[:500]}
        if not isinstance(value, dict):
            raise NodeError("invalid answer")
        return status, value

    @asynccontextmanager
    async def stream(
        self,
        method: str,
        path: str,
        *,
        params: Mapping[str, str | int] | None = None,
        body: Json | None = None,
        timeout_s: float | None = TIMEOUT_S,
    ) -> AsyncIterator[aiohttp.ClientResponse]:
        """Send one request; the response is read by the caller. Raises NodeError.

        ``timeout_s`` is for all of it; None: the answer never ends by itself.
        """
        query = f"?{urlencode(params)}" if params else ""
        url = URL(f"http://{self._authority}{path}{query}", encoded=True)
        timeout = aiohttp.ClientTimeout(
            total=timeout_s, connect=TIMEOUT_S, sock_read=timeout_s or None
        )
        try:
            async with self._opened().request(
                method, url, json=body, timeout=timeout, headers=self._headers()
            ) as response:
                if response.status in {401, 403}:
                    raise NodeError("it refuses the token of console.token_file")
                yield response
        except TimeoutError:
            raise NodeError("timeout") from None
        except (aiohttp.ClientError, OSError, ValueError) as error:
            raise NodeError(_words(error)) from None

    @property
    def _authority(self) -> str:
        return "localhost" if self.address.startswith(UNIX) else self.address

    def _opened(self) -> aiohttp.ClientSession:
        if self._session is None:
            connector: aiohttp.BaseConnector
            if self.address.startswith(UNIX):
                connector = aiohttp.UnixConnector(self.address.removeprefix(UNIX), force_close=True)
            else:
                connector = aiohttp.TCPConnector(force_close=True)
            self._session = aiohttp.ClientSession(connector=connector)
        return self._session

    def _headers(self) -> dict[str, str]:
        if self._token_file is None:
            return {}
        return {"Authorization": f"Bearer {read_token(self._token_file).decode('latin-1')}"}


async def _read(response: aiohttp.ClientResponse) -> bytes:
    content = bytearray()
    async for chunk in response.content.iter_any():
        content += chunk
        if len(content) > MAX_ANSWER_BYTES:
            raise NodeError("answer too large")
    return bytes(content)


def _words(error: Exception) -> str:
    if isinstance(error, aiohttp.ServerDisconnectedError):
        return "connection closed"
    cause: BaseException = error
    if isinstance(error, aiohttp.ClientConnectorError):
        cause = error.os_error
    if isinstance(cause, (ConnectionRefusedError, FileNotFoundError)):
        return "connection refused"
    if isinstance(cause, OSError) and cause.strerror:
        return cause.strerror.lower()
    if isinstance(cause, asyncio.IncompleteReadError | aiohttp.ClientPayloadError):
        return "connection closed"
    return str(cause)[:200] or type(cause).__name__
