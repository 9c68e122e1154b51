"""HTTP with the API server: authentication, one request, one watch. Called by ``client`` alone.

When credentials are rejected, it logs in again; requests and watches with the previous ones
continue. Rejections are raised as the errors of ``interface``.
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

#: Timeout of a request, and duration after which the server closes a watch.
REQUEST_TIMEOUT_S: Final = 30.0
WATCH_S: Final = 240
#: Accept headers.
FULL_OBJECT: Final = "application/json"
METADATA_ONLY: Final = "application/json;as=PartialObjectMetadata;g=meta.k8s.io;v=v1"
#: The longest line of a watch; objects have at most about 3 MiB.
_MAX_LINE_BYTES: Final = 8 * 1024 * 1024
#: How many sessions with previous credentials are kept for running requests.
_MAX_PREVIOUS: Final = 2
#: Errors without a response; closing a session aborts its requests with a RuntimeError.
_TRANSPORT_ERRORS: Final = (TimeoutError, OSError, aiohttp.ClientError, ValueError, RuntimeError)
#: Messages of status 500 for an unknown field and an invalid quantity, which are the client's
#: errors.
_TYPE_ERRORS: Final = ("failed to create typed patch object", "failed to convert new object")

#: Returns credentials; called again when they are rejected.
Login = Callable[[], Awaitable[kopf.ConnectionInfo]]


class ApiServer:
    """See the module's docstring. Use as an asynchronous context manager."""

    def __init__(self, login: Login) -> None:
        self._login = login
        self._session: aiohttp.ClientSession | None = None
        self._previous: deque[aiohttp.ClientSession] = deque()
        self._logging_in = asyncio.Lock()
        #: Responses by method and status; "none" without a response.
        self.responses: Counter[tuple[str, str]] = Counter()

    async def __aenter__(self) -> ApiServer:
        await self._log_in()
        return self

    async def __aexit__(self, *_: object) -> None:
        for session in (*self._previous, self._session):
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
            # Watches continue with the previous credentials until the server closes them.
            self._previous.append(self._session)
        self._session = session
        while len(self._previous) > _MAX_PREVIOUS:
            await self._previous.popleft().close()

    async def _log_in_again(self, refused: aiohttp.ClientSession) -> None:
        """Log in, unless another request has done so since the session was rejected."""
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
        """Send a request, again with new credentials if they are rejected; return the response.

        Raises KubeError and KubeUnavailable.
        """
        session = self._http
        try:
            return await self._send(method, path, query, body, content_type)
        except KubeError as error:
            if error.status != 401:
                raise
        # Tokens of ServiceAccounts are rotated every hour.
        await self._log_in_again(session)
        return await self._send(method, path, query, body, content_type)

    async def _send(
        self,
        method: str,
        path: str,
        query: Mapping[str, str] | None,
        body: object,
        content_type: str,
    ) -> dict[str, Any]:
        payload = None if body is None else json.dumps(body).encode()
        headers = {"Accept": FULL_OBJECT}
        if payload is not None:
            headers["Content-Type"] = content_type
        try:
            async with self._http.request(
                method, path, params=query, data=payload, headers=headers
            ) as response:
                self.responses[method, str(response.status)] += 1
                await raise_for_status(response)
                body_json: dict[str, Any] = await response.json(content_type=None)
                return body_json
        except _TRANSPORT_ERRORS as error:
            self.responses[method, "none"] += 1
            raise KubeUnavailable(f"API server unreachable: {error!r}") from error

    async def text(self, path: str, query: Mapping[str, str]) -> str:
        """Return what is at a path and not JSON: a log. Raises KubeError and KubeUnavailable."""
        headers = {"Accept": "*/*"}
        try:
            async with self._http.get(path, params=query, headers=headers) as response:
                self.responses["GET", str(response.status)] += 1
                await raise_for_status(response)
                return await response.text(errors="replace")
        except _TRANSPORT_ERRORS as error:
            raise KubeUnavailable(f"API server unreachable: {error!r}") from error

    async def events(
        self, path: str, version: str, selector: str, accepted: str
    ) -> AsyncGenerator[dict[str, Any], None]:
        """Yield the events of one watch until the server closes it."""
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
            ) as response:
                self.responses["WATCH", str(response.status)] += 1
                if response.status == 410:
                    yield {"type": "ERROR"}
                    return
                await raise_for_status(response)
                buffer = b""
                async for chunk in response.content.iter_any():
                    *lines, buffer = (buffer + chunk).split(b"\n")
                    for line in lines:
                        yield json.loads(line)
                    if len(buffer) > _MAX_LINE_BYTES:
                        yield {"type": "ERROR"}
                        return
        except _TRANSPORT_ERRORS as error:
            raise KubeUnavailable(f"watch closed: {error!r}") from error


async def raise_for_status(response: aiohttp.ClientResponse) -> None:
    """Raise KubeError or KubeUnavailable for a response with an error status."""
    if response.status < 400:
        return
    text = await response.text(errors="replace")
    try:
        message = str(json.loads(text)["message"])
    except (ValueError, LookupError, TypeError):
        message = text.strip() or response.reason or str(response.status)
    if response.status == 500 and message.startswith(_TYPE_ERRORS):
        raise KubeError(422, message)
    error = KubeError(response.status, message)
    if response.status == 429 or (response.status >= 500 and not error.is_webhook_failure):
        raise KubeUnavailable(message)
    raise error


def tls_context(connection: kopf.ConnectionInfo) -> ssl.SSLContext | bool:
    """Return the TLS context: how to verify the API server, and the client certificate."""
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
    """Return PEM data of a kubeconfig, which may be in base64."""
    if data is None:
        return None
    text = data.decode() if isinstance(data, bytes) else data
    return text if "-----BEGIN" in text else base64.b64decode(text).decode()
