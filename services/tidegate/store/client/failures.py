"""Failures of the store in one sentence each: the setting, the server, and what is wrong.

``servers`` and ``lanes`` call it with what redis-py or the network raised; logs, ``check`` and the
end of a start show the result. Decides as well which failures are final (StoreRefused) and which
may pass (StoreUnavailable). Reads and sends nothing; ``protocol_probe`` finds out what a server
speaks.
"""

from __future__ import annotations

import re
import socket
import ssl
from collections.abc import Iterator, Sequence
from enum import Enum
from typing import Final

from redis import exceptions as redis_errors

from tidegate.runtime.config.model import StoreConfig
from tidegate.runtime.config.store_url import StoreUrl
from tidegate.store.api import StoreUnavailable
from tidegate.store.keys import RESTORING


class StoreRefused(Exception):
    """The server or its contents cannot be used; the message says why in one sentence."""


class StoreNotReady(StoreUnavailable):
    """The server cannot be reached, or is loading: this says nothing about the settings."""


class Spoken(Enum):
    """What a server speaks at a port."""

    REDIS = "the Redis protocol without TLS"
    TLS = "TLS"
    TLS_WITH_CERTIFICATE = "TLS with client certificates"
    HTTP = "HTTP"
    OTHER = "another protocol"
    NOTHING = "nothing"


#: OpenSSL's codes of a certificate for another name or address.
_OTHER_NAME: Final = frozenset({62, 64})
#: Alerts with which a server refuses the certificate of a client.
_CLIENT_CERTIFICATE: Final = ("handshake_failure", "unknown_ca", "bad_cert", "certificate_unknown")
_COMMAND: Final = re.compile(r"'([^']+)'")
_MAX_TEXT: Final = 200


class Failures:
    """Explains the failures of one kind of server: those with data, or the sentinels."""

    __slots__ = (
        "_database",
        "_has_certificate",
        "_password_key",
        "_url_key",
        "_user",
        "_user_key",
        "tls",
    )

    def __init__(self, url: StoreUrl, store: StoreConfig, *, sentinel: bool = False) -> None:
        self.tls = url.tls
        self._has_certificate = store.tls_certificate is not None
        self._database = url.database
        #: Without a URL it is the embedded server.
        self._url_key = "store.data_dir" if store.url is None else "store.url"
        prefix = "sentinel_" if sentinel else ""
        file = store.sentinel_password_file if sentinel else store.password_file
        in_url = not sentinel and bool(url.password)
        self._password_key = "store.url" if in_url else f"store.{prefix}password_file"
        username = store.sentinel_username if sentinel else (url.username or store.username)
        self._user = username or "default"
        self._user_key = f"store.{prefix}username" if username and file else self._password_key

    def of_url(self, server: str, text: str) -> str:
        """Return the sentence for a server that the URL should not name."""
        return f"{self._url_key}: {server} {text}"

    def explain(self, error: Exception, server: str, spoken: Spoken | None = None) -> Exception:
        """Return StoreRefused or StoreUnavailable with the sentence.

        ``spoken`` is what the server was found to speak, if that was looked at.
        """
        if isinstance(error, StoreRefused | StoreUnavailable):
            return error
        if (mismatch := self._mismatch(server, spoken)) is not None:
            return mismatch
        for cause in _chain(error):
            if sentence := self._of_tls(cause, server) or self._of_rights(cause, server):
                return StoreUnavailable(sentence)
            if _is_closed(cause):
                return StoreUnavailable(self.of_url(server, "closes the connection"))
            if sentence := self._of_network(cause, server):
                return StoreNotReady(sentence)
            if isinstance(cause, redis_errors.ResponseError | redis_errors.BusyLoadingError):
                return self._of_reply(_text(cause), server)
        if isinstance(error, redis_errors.InvalidResponse):
            return self._mismatch(server, Spoken.OTHER) or error
        return StoreUnavailable(self.of_url(server, f"cannot be used: {_text(error)}"))

    def _mismatch(self, server: str, spoken: Spoken | None) -> Exception | None:
        """Return the refusal of a server that speaks something else than the URL says."""
        if spoken is None or spoken is Spoken.NOTHING:
            return None
        if spoken in {Spoken.TLS, Spoken.TLS_WITH_CERTIFICATE}:
            if self.tls:
                return self._without_certificate(server, spoken)
            text = "expects TLS: the URL must begin with rediss"
        elif spoken is Spoken.REDIS:
            if not self.tls:
                return None
            text = "speaks no TLS: the URL must begin with redis, not rediss"
        else:
            text = f"is no Redis or Valkey server: it speaks {spoken.value}"
        return StoreRefused(self.of_url(server, text))

    def _without_certificate(self, server: str, spoken: Spoken) -> Exception | None:
        if spoken is Spoken.TLS or self._has_certificate:
            return None
        return StoreUnavailable(f"store.tls_certificate: {server} requires a client certificate")

    def _of_tls(self, cause: BaseException, server: str) -> str | None:
        if isinstance(cause, ssl.SSLCertVerificationError):
            return self._of_certificate(cause, server)
        if not isinstance(cause, ssl.SSLError):
            return None
        reason = (cause.reason or "").lower()
        if "certificate_required" in reason:
            return f"store.tls_certificate: {server} requires a client certificate"
        if any(word in reason for word in _CLIENT_CERTIFICATE):
            text = f"refuses the client certificate: {_words(reason)}"
            return f"store.tls_certificate: {server} {text}"
        return self.of_url(server, f"does not complete the TLS handshake: {_words(reason)}")

    def _of_network(self, cause: BaseException, server: str) -> str | None:
        if isinstance(cause, socket.gaierror):
            return self.of_url(server, f"cannot be resolved: {cause.strerror}")
        if isinstance(cause, TimeoutError | redis_errors.TimeoutError):
            return self.of_url(server, "does not answer in time")
        if isinstance(cause, ConnectionRefusedError):
            return self.of_url(server, "refuses the connection: is the server running?")
        if isinstance(cause, OSError):
            return self.of_url(server, f"cannot be reached: {cause.strerror or cause}")
        return None

    def _of_certificate(self, cause: ssl.SSLCertVerificationError, server: str) -> str:
        if cause.verify_code in _OTHER_NAME:
            return self.of_url(server, "has a certificate for another name or address")
        reason = cause.verify_message
        return f"store.tls_ca: {server} has a certificate that does not verify: {reason}"

    def _of_rights(self, cause: BaseException, server: str) -> str | None:
        text = _text(cause)
        if is_permission_denied(cause):
            return (
                f"{self._user_key}: {server} gives user {self._user} no permission {_denied(text)}"
            )
        if "NOAUTH" in text or "Authentication required" in text:
            return f"{self._password_key}: {server} requires a password"
        if "without any password configured" in text or "no password is set" in text:
            return f"{self._password_key}: {server} has no password for user {self._user}"
        if isinstance(cause, redis_errors.AuthenticationError) or text.startswith("WRONGPASS"):
            return f"{self._password_key}: {server} refuses the password of user {self._user}"
        return None

    def _of_reply(self, text: str, server: str) -> Exception:
        if "DB index is out of range" in text or "invalid DB index" in text:
            return StoreRefused(self.of_url(server, f"has no database {self._database}"))
        if "SELECT is not allowed" in text:
            return StoreRefused(self.of_url(server, "is a cluster, which has database 0 only"))
        if text.startswith("READONLY") or "read only replica" in text:
            return StoreUnavailable(
                self.of_url(server, "is a read-only replica: the URL must name its master")
            )
        if text.startswith("LOADING") or "loading the dataset" in text:
            return StoreNotReady(self.of_url(server, "is loading its data set"))
        if "unknown command" in text.lower():
            return StoreRefused(self.of_url(server, f"is another kind of server: {_cut(text)}"))
        return StoreUnavailable(self.of_url(server, f"answers with an error: {_cut(text)}"))


def combined(errors: Sequence[Exception]) -> StoreUnavailable:
    """Return one failure for servers of which none could be used, whatever is wrong with each."""
    text = "; ".join(sorted({_text(error) for error in errors}))
    if all(isinstance(error, StoreNotReady) for error in errors):
        return StoreNotReady(text)
    return StoreUnavailable(text)


def check_layout(setting: str, found: str, ours: str) -> None:
    """Raise StoreRefused if the store is in use with another format version or partitions."""
    if found == ours:
        return
    if found.startswith(RESTORING):
        name = found.split(" ")[1]
        raise StoreRefused(
            f"{setting}: the restore of backup {name} into this store is not finished: run "
            f"`tidegate restore` with --name {name} again to finish it (sessions are incomplete "
            "until then, so no broker starts), or empty the store"
        )
    version, _, partitions = found.partition(":")
    our_version, _, configured = ours.partition(":")
    setting = "store.partitions" if version == our_version else setting
    raise StoreRefused(
        f"{setting}: the store holds format version {version} with {partitions} partitions, but "
        f"this Tidegate is configured for format version {our_version} with {configured} partitions"
    )


def _is_closed(cause: BaseException) -> bool:
    """Whether the server was reached, and has closed the connection."""
    if isinstance(cause, redis_errors.ConnectionError):
        return "Connection closed" in str(cause)
    return isinstance(cause, ConnectionError) and not isinstance(cause, ConnectionRefusedError)


def is_permission_denied(error: BaseException) -> bool:
    """Whether the server's ACL refuses a command or a key, also within a script."""
    text = str(error)
    return (
        isinstance(error, redis_errors.NoPermissionError)
        or text.startswith(("NOPERM", "ACL failure in script"))
        or "user executing the script" in text
    )


def _denied(text: str) -> str:
    """Return what a server's ACL refuses. Redis does not name commands of scripts."""
    if found := _COMMAND.search(text):
        return f"to run {found[1]}"
    if "access" in text:
        return "for Tidegate's keys (tg:*)"
    return "to run a command of its scripts (docs/storage.md lists them)"


def _chain(error: BaseException) -> Iterator[BaseException]:
    """Yield what has caused an error, the first cause first."""
    chain: list[BaseException] = []
    cause: BaseException | None = error
    while cause is not None and cause not in chain:
        chain.append(cause)
        cause = cause.__cause__ or cause.__context__
    yield from reversed(chain)


def _text(error: BaseException) -> str:
    return str(error) or type(error).__name__


def _cut(text: str) -> str:
    line = " ".join(text.split())
    return line if len(line) <= _MAX_TEXT else f"{line[:_MAX_TEXT]}…"


def _words(reason: str) -> str:
    return reason.replace("_", " ") or "no reason given"
