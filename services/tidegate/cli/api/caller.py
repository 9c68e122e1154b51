"""Requests to the console's API, and where it is.

That is said by options, the environment, a file of contexts, or the configuration file of the
``tidegate serve`` of this machine.

Called by the commands. An answer is JSON, a refusal a sentence (``ApiFailure``).
"""

# ruff: noqa: PLC0415 - imports inside keep the other commands quick

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final
from urllib.parse import quote, urlencode, urlsplit

from tidegate.cli.api import this_machine

DEFAULT_API: Final = "http://127.0.0.1:18080"
TIMEOUT_S: Final = 15.0
#: Environment variables. (Those that begin with TIDEGATE_ are settings of the broker.)
API_VARIABLE: Final = "TIDEGATECTL_API"
TOKEN_VARIABLE: Final = "TIDEGATECTL_TOKEN"  # noqa: S105  # the name of a variable
CONTEXT_VARIABLE: Final = "TIDEGATECTL_CONTEXT"
FILE_VARIABLE: Final = "TIDEGATECTL_CONFIG"

Json = dict[str, Any]


class ApiFailure(Exception):
    """The API refused or did not answer. The text is one line; ``status`` 0: no answer."""

    def __init__(self, text: str, status: int = 0) -> None:
        super().__init__(text)
        self.status = status


class WrongContext(ValueError):
    """What says where the API is cannot be used: an option, or what ``option`` overrides."""

    def __init__(self, text: str, option: str = "--api") -> None:
        super().__init__(text)
        self.option = option


def contexts_file() -> Path:
    """Return where contexts are."""
    named = os.environ.get(FILE_VARIABLE)
    if named:
        return Path(named)
    base = os.environ.get("XDG_CONFIG_HOME") or Path.home() / ".config"
    return Path(base) / "tidegate" / "ctl.yaml"


def read_token(text: str) -> str:
    """Return the token of a file: its text, or of lines `ROLE TOKEN` the first one."""
    lines = (line.strip() for line in text.splitlines())
    first = next((line for line in lines if line and not line.startswith("#")), "")
    return first.split()[-1] if first else ""


@dataclass(slots=True)
class Api:
    """The API of one console."""

    url: str
    token: str = ""
    #: Certificates that its certificate is verified with; None: those of the system.
    ca: Path | None = None

    @classmethod
    def found(
        cls,
        api: str | None,
        context: str | None,
        token_file: Path | None,
        config: Path | None = None,
    ) -> Api:
        """Return the API that options, environment, contexts and ``serve`` on this machine say.

        Raises WrongContext, OSError; ApiFailure for a first token that cannot be used.
        """
        if config is not None and not api and not context:
            return cls._of_serve(_named(config), token_file, {})
        known = _context(context or os.environ.get(CONTEXT_VARIABLE))
        url = api or os.environ.get(API_VARIABLE) or known.get("api")
        if not url:
            try:
                console = this_machine.found()
            except this_machine.UnusableFile as error:
                raise ApiFailure(str(error)) from None
            return cls._of_serve(console, token_file, known)
        return cls._at(url, _token(token_file, known), known)

    @classmethod
    def _of_serve(
        cls,
        console: this_machine.Console | None,
        token_file: Path | None,
        known: Mapping[str, str],
    ) -> Api:
        token = _token(token_file, known)
        if console is None:
            return cls._at(DEFAULT_API, token, known)
        if not token and console.tokens_file is not None:
            try:
                token = read_token(this_machine.read_private(console.tokens_file))
            except this_machine.UnusableFile as error:
                raise ApiFailure(str(error)) from None
        return cls._at(console.url, token, known)

    @classmethod
    def _at(cls, url: str, token: str, known: Mapping[str, str]) -> Api:
        parts = urlsplit(url if "://" in url else f"http://{url}")
        if parts.scheme not in {"http", "https"} or not parts.hostname or parts.path.strip("/"):
            raise WrongContext(f"expected http://HOST:PORT or https://HOST:PORT, got {url}")
        ca = known.get("ca")
        return cls(
            f"{parts.scheme}://{parts.netloc}",
            token,
            None if ca is None else Path(ca).expanduser(),
        )

    @staticmethod
    def is_configured(api: str | None, context: str | None) -> bool:
        """Whether an option, the environment or a context says where a console is.

        Raises WrongContext.
        """
        if api or os.environ.get(API_VARIABLE):
            return True
        return "api" in _context(context or os.environ.get(CONTEXT_VARIABLE))

    # Requests

    def get(self, path: str, params: Mapping[str, object] | None = None) -> Json:
        """Read something. Raises ApiFailure."""
        return self.call("GET", path, params=params)

    def call(
        self,
        method: str,
        path: str,
        body: Json | None = None,
        params: Mapping[str, object] | None = None,
    ) -> Json:
        """Send a request and return the decoded answer. Raises ApiFailure."""
        import json

        connection, response = self._send(method, path, body, params, TIMEOUT_S)
        try:
            content = response.read()
        except OSError as error:
            raise self._no_answer(error) from None
        finally:
            response.close()
            connection.close()
        if not content:
            return {}
        try:
            value = json.loads(content)
        except ValueError:
            value = None
        if not isinstance(value, dict):
            raise ApiFailure(f"the answer of {self.url} is not from Tidegate's console")
        return value

    def events(self, path: str, params: Mapping[str, object]) -> Iterator[tuple[str, Json]]:
        """Read server-sent events until they end. Raises ApiFailure."""
        import json

        connection, response = self._send("GET", path, None, params, TIMEOUT_S)
        kind = ""
        try:
            while line := response.readline():
                name, _, value = line.decode().rstrip("\r\n").partition(": ")
                if name == "event":
                    kind = value
                elif name == "data":
                    yield kind, json.loads(value)
        except OSError as error:
            raise self._no_answer(error) from None
        finally:
            response.close()
            connection.close()

    def all(
        self, path: str, params: Mapping[str, object], limit: int, after: str | None = ""
    ) -> Json:
        """Read pages until there are ``limit`` items; 0: all. Raises ApiFailure."""
        whole: Json = {"items": [], "next": None, "missing": []}
        while True:
            left = limit - len(whole["items"]) if limit else 1000
            wanted = {**params, "limit": min(1000, left), "after": after}
            page = self.get(path, wanted)
            whole["items"] += page["items"]
            whole["missing"] += [one for one in page["missing"] if one not in whole["missing"]]
            after = page["next"]
            if after is None or (limit and len(whole["items"]) >= limit):
                whole["next"] = after
                return whole

    def _send(
        self,
        method: str,
        path: str,
        body: Json | None,
        params: Mapping[str, object] | None,
        timeout_s: float,
    ) -> tuple[Any, Any]:
        import json
        from http.client import HTTPException

        given = {name: value for name, value in (params or {}).items() if value not in (None, "")}
        query = f"?{urlencode(given, doseq=True)}" if given else ""
        headers = {"Authorization": f"Bearer {self.token}"} if self.token else {}
        data = None
        if body is not None:
            headers["Content-Type"] = "application/json"
            data = json.dumps(body).encode()
        connection = self._connection(timeout_s)
        try:
            connection.request(method, f"/api/v1{path}{query}", data, headers)
            response = connection.getresponse()
            if response.status >= 400:
                content = response.read()
                response.close()
                connection.close()
                raise self._refusal(response.status, content)
        except (OSError, HTTPException) as error:
            connection.close()
            raise self._no_answer(error) from None
        return connection, response

    def _connection(self, timeout_s: float) -> Any:
        import ssl
        from http.client import HTTPConnection, HTTPSConnection

        parts = urlsplit(self.url)
        assert parts.hostname is not None
        if parts.scheme == "http":
            return HTTPConnection(parts.hostname, parts.port or 80, timeout=timeout_s)
        try:
            tls = ssl.create_default_context(cafile=None if self.ca is None else str(self.ca))
        except OSError as error:
            raise ApiFailure(f"ca {self.ca}: {error.strerror or error}") from None
        return HTTPSConnection(parts.hostname, parts.port or 443, timeout=timeout_s, context=tls)

    def _no_answer(self, error: Exception) -> ApiFailure:
        reason = getattr(error, "strerror", None) or str(error) or type(error).__name__
        return ApiFailure(
            f"no answer from {self.url}: {reason}. `tidegate serve` prints where its console is: "
            f"--api URL, or {API_VARIABLE}"
        )

    def _refusal(self, status: int, content: bytes) -> ApiFailure:
        import json

        try:
            sentence = str(json.loads(content)["error"])
        except (ValueError, KeyError, TypeError):
            sentence = content.decode(errors="replace").strip()[:500] or f"status {status}"
        if status == 401:
            sentence += f": --api-token-file FILE, or {TOKEN_VARIABLE}"
        return ApiFailure(sentence, status)


def part(text: str) -> str:
    """Return a text as a part of a path."""
    return quote(text, safe="")


def _named(config: Path) -> this_machine.Console | None:
    try:
        found = this_machine.named(config)
    except ValueError as error:
        raise WrongContext(str(error), "--config") from None
    if found is None:
        raise WrongContext(
            f"{config}: no console: console.enabled is false, or console.port is 0 and no "
            "`tidegate serve` of this file runs here",
            "--config",
        )
    return found


def _context(name: str | None) -> Mapping[str, str]:
    """Return a context of the file; the current one without a name. Raises WrongContext."""
    path = contexts_file()
    try:
        text = path.read_text(encoding="utf-8")
    except FileNotFoundError:
        if name is None:
            return {}
        raise WrongContext(f"there is no context {name}: {path} does not exist") from None
    import yaml

    try:
        content = yaml.safe_load(text) or {}
        contexts = content.get("contexts") or {}
        chosen = name or content.get("current")
        if chosen is None:
            return {}
        found = contexts[chosen]
        return {
            key: str(found[key]) for key in ("api", "token", "token_file", "ca") if key in found
        }
    except (yaml.YAMLError, AttributeError, TypeError):
        raise WrongContext(
            f"{path}: expected `current: NAME` and `contexts: {{NAME: {{api, token_file, ca}}}}`"
        ) from None
    except KeyError:
        raise WrongContext(f"{path} has no context {chosen}") from None


def _token(token_file: Path | None, known: Mapping[str, str]) -> str:
    if token_file is not None:
        return read_token(token_file.read_text(encoding="utf-8"))
    if token := os.environ.get(TOKEN_VARIABLE):
        return token
    if "token_file" in known:
        path = Path(known["token_file"]).expanduser()
        return read_token(path.read_text(encoding="utf-8"))
    return known.get("token", "")
