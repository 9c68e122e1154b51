"""HTTP with the API server: who we are, one request, one watch. Called by ``kube`` alone.

Credentials are asked for anew when they are not accepted any more; what is under way with the old
ones goes on. Answers that say no are raised as ``cluster``'s errors.
"""

from __future__ import annotations

import asyncio
import base64
import json
import ssl
import tempfile
from collections import Counter, deque
from collections.abc import AsyncGenerator, Awaitable, Callable, Mapping
from pathlib import Path
from typing import Any, Final

import aiohttp
import kopf

from tidegate_operator import names
from tidegate_operator.kube.interface import KubeError, KubeUnavailable

#: How long one request may take; a watch is ended by the server before that.
REQUEST_TIMEOUT_S: Final = 30.0
WATCH_S: Final = 240
#: What a watch and a request accept.
WHOLE: Final = "application/json"
METADATA_ONLY: Final = "application/json;as=PartialObjectMetadata;g=meta.k8s.io;v=v1"
#: The largest line of a watch; objects have at most about three MiB.
_MAX_LINE_BYTES: Final = 8 * 1024 * 1024
#: Sessions with credentials of before that are kept for what is under way.
_MAX_OLD: Final = 2
#: What there may be instead of an answer; a session that is closed ends what is under way with a
#: RuntimeError.
_NO_ANSWER: Final = (TimeoutError, OSError, aiohttp.ClientError, ValueError, RuntimeError)
#: How the server complains of a field that it does not know, and of an amount that is none: as an
#: error of its own.
_MISSPELLED: Final = ("failed to create typed patch object", "failed to convert new object")

#: Asks for credentials anew, when the old ones are not accepted any more.
Login = Callable[[], Awaitable[kopf.ConnectionInfo]]


class ApiServer:
    """See the module's docstring. Use as an asynchronous context manager."""

    def __init__(self, login: Login) -> None:
        self._login = login
        self._session: aiohttp.ClientSession | None = None
        self._old: deque[aiohttp.ClientSession] = deque()
        self._logging_in = asyncio.Lock()
        #: What came of each request, by method and status; "none" where there was no answer.
        self.answers: Counter[tuple[str, str]] = Counter()

    async def __aenter__(self) -> ApiServer:
        await self._log_in()
        return self

    async def __aexit__(self, *_: object) -> None:
        for session in (*self._old, self._session):
            if session is not None:
                await session.close()

    async def _log_in(self) -> None:
        connection = await self._login()
        session = aiohttp.ClientSession(
            base_url=connection.server.rstrip("/") + "/",
            headers={**connection.as_http_headers(), "User-Agent": names.FIELD_MANAGER},
            connector=aiohttp.TCPConnector(ssl=tls_context(connection), limit=32),
            timeout=aiohttp.ClientTimeout(total=REQUEST_TIMEOUT_S),
            read_bufsize=2**20,
        )
        if self._session is not None:
            # Watches go on with the old credentials until the server ends them, soon enough.
            self._old.append(self._session)
        self._session = session
        while len(self._old) > _MAX_OLD:
            await self._old.popleft().close()

    async def _log_in_again(self, refused: aiohttp.ClientSession) -> None:
        """Log in, unless somebody else has done so since a session was refused."""
        async with self._logging_in:
            if self._session is refused:
                await self._log_in()

    @property
    def _http(self) -> aiohttp.ClientSession:
        assert self._session is not None
        return self._session

    async def request(
        self,
        method: str,
        path: str,
        *,
        query: Mapping[str, str] | None = None,
        body: object = None,
        content_type: str = "application/json",
    ) -> dict[str, Any]:
        """Ask once, with new credentials if the old ones are refused; return the answer.

        Raises KubeError and KubeUnavailable.
        """
        session = self._http
        try:
            return await self._try(method, path, query, body, content_type)
        except KubeError as error:
            if error.status != 401:
                raise
        # Tokens of ServiceAccounts are replaced every hour.
        await self._log_in_again(session)
        return await self._try(method, path, query, body, content_type)

    async def _try(
        self,
        method: str,
        path: str,
        query: Mapping[str, str] | None,
        body: object,
        content_type: str,
    ) -> dict[str, Any]:
        payload = None if body is None else json.dumps(body).encode()
        headers = {"Accept": WHOLE}
        if payload is not None:
            headers["Content-Type"] = content_type
        try:
            async with self._http.request(
                method, path, params=query, data=payload, headers=headers
            ) as answer:
                self.answers[method, str(answer.status)] += 1
                await check(answer)
                found: dict[str, Any] = await answer.json(content_type=None)
                return found
        except _NO_ANSWER as error:
            self.answers[method, "none"] += 1
            raise KubeUnavailable(f"the API server cannot be reached: {error!r}") from error

    async def events(
        self, path: str, version: str, selector: str, accepted: str
    ) -> AsyncGenerator[dict[str, Any], None]:
        """Yield the events of one watch until the server ends it."""
        query = {
            "watch": "1",
            "allowWatchBookmarks": "true",
            "timeoutSeconds": str(WATCH_S),
            "resourceVersion": version,
        } | ({"labelSelector": selector} if selector else {})
        timeout = aiohttp.ClientTimeout(total=None, sock_connect=10, sock_read=WATCH_S + 30)
        headers = {"Accept": accepted}
        try:
            async with self._http.get(
                path, params=query, headers=headers, timeout=timeout
            ) as answer:
                self.answers["WATCH", str(answer.status)] += 1
                if answer.status == 410:
                    yield {"type": "ERROR"}
                    return
                await check(answer)
                buffer = b""
                async for chunk in answer.content.iter_any():
                    *lines, buffer = (buffer + chunk).split(b"\n")
                    for line in lines:
                        yield json.loads(line)
                    if len(buffer) > _MAX_LINE_BYTES:
                        yield {"type": "ERROR"}
                        return
        except _NO_ANSWER as error:
            raise KubeUnavailable(f"the watch has ended: {error!r}") from error


async def check(answer: aiohttp.ClientResponse) -> None:
    """Raise what an answer that is not good means."""
    if answer.status < 400:
        return
    text = await answer.text(errors="replace")
    try:
        message = str(json.loads(text)["message"])
    except (ValueError, LookupError, TypeError):
        message = text.strip() or answer.reason or str(answer.status)
    if answer.status == 500 and message.startswith(_MISSPELLED):
        raise KubeError(422, message)
    refusal = KubeError(answer.status, message)
    if answer.status == 429 or (answer.status >= 500 and not refusal.is_about_a_webhook):
        raise KubeUnavailable(message)
    raise refusal


def tls_context(connection: kopf.ConnectionInfo) -> ssl.SSLContext | bool:
    """Return how the API server is recognised, and how we show who we are."""
    if not connection.server.startswith("https"):
        return True
    ca_data = _pem(connection.ca_data)
    context = ssl.create_default_context(
        cafile=None if connection.ca_path is None else str(connection.ca_path), cadata=ca_data
    )
    if connection.insecure:
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
    certificate, key = connection.certificate_path, connection.private_key_path
    if certificate is not None:
        context.load_cert_chain(str(certificate), None if key is None else str(key))
    elif connection.certificate_data is not None and connection.private_key_data is not None:
        with tempfile.TemporaryDirectory() as directory:
            file = Path(directory) / "client.pem"
            file.touch(mode=0o600)
            file.write_text(
                f"{_pem(connection.certificate_data)}\n{_pem(connection.private_key_data)}"
            )
            context.load_cert_chain(file)
    return context


def _pem(data: str | bytes | None) -> str | None:
    """Return data of a kubeconfig, which is PEM or PEM in base64."""
    if data is None:
        return None
    text = data.decode() if isinstance(data, bytes) else data
    return text if "-----BEGIN" in text else base64.b64decode(text).decode()
