"""Who a client is: anonymous, identified by its certificate, or by user name and password.

Called by ``edge.client`` for every CONNECT: ``authenticate_now`` first, and ``authenticate`` when
that returns None because a costly hash has to be computed; ``roles`` reloads the file. Counts only
hashes: a refusal has its reason, and the caller that answers the client counts it.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from tidegate.edge.auth.listener_files import ListenerFiles
from tidegate.edge.auth.password_verifier import PasswordCheck, PasswordVerifier, thread_count
from tidegate.edge.auth.passwords import PasswordFile, PasswordFileError
from tidegate.edge.channel import Peer
from tidegate.mqtt.enums import ReasonCode
from tidegate.runtime.config.model import AuthConfig, ListenerConfig
from tidegate.runtime.telemetry.counters import Counters

log = logging.getLogger(__name__)

_LOGGED_PROBLEMS: Final = 20


@dataclass(slots=True, frozen=True)
class Decision:
    """Whether a client may connect, and under which user name (a certificate's, for example).

    ``reason`` is empty when allowed, else a word of ``AUTH_FAILURE_REASONS``. ``by_password``: the
    client may stay connected as long as the password file has the user.
    """

    allowed: bool
    username: str | None
    reason_code: ReasonCode = ReasonCode.SUCCESS
    reason: str = ""
    by_password: bool = False


_ANONYMOUS: Final = Decision(True, None)
_NOT_ANONYMOUS: Final = Decision(False, None, ReasonCode.NOT_AUTHORIZED, "anonymous")


def _refused(reason: str, code: ReasonCode = ReasonCode.BAD_USER_NAME_OR_PASSWORD) -> Decision:
    return Decision(False, None, code, reason)


_NO_PASSWORD: Final = _refused("no_password")
_UNKNOWN_USER: Final = _refused("unknown_user")
_NO_CERTIFICATE: Final = _refused("no_certificate")
_BUSY: Final = _refused("busy", ReasonCode.SERVER_BUSY)


class Authenticator:
    """Decides by the configuration and the password files: a listener's own, else that of ``auth``.

    Raises PasswordFileError if a file cannot be read at the start; ``reload`` raises it too, and
    then the users stay as they were. Malformed lines are logged and ignored.
    """

    __slots__ = ("_allow_anonymous", "_files", "_verifier")

    def __init__(
        self, auth: AuthConfig, counters: Counters, listeners: Sequence[ListenerConfig] = ()
    ) -> None:
        self._allow_anonymous = auth.allow_anonymous
        self._files = ListenerFiles("password_file", self._load, PasswordFile({}))
        self._files.apply(auth, listeners, self._files.prepare(auth, listeners))
        self._verifier = PasswordVerifier(
            counters,
            threads=thread_count(auth.password_threads),
            max_pending=auth.max_pending_passwords,
            max_remembered=auth.max_remembered_passwords,
        )

    def files(self) -> list[Path]:
        """Return the files to watch."""
        return self._files.paths()

    def reload(self, path: Path) -> None:
        """Read a password file again."""
        self._files.reload(path)

    def prepare(
        self, auth: AuthConfig, listeners: Sequence[ListenerConfig] = ()
    ) -> dict[Path, PasswordFile]:
        """Read the files that other settings name and that are not in use yet, for ``apply``.

        Raises PasswordFileError.
        """
        return self._files.prepare(auth, listeners)

    def apply(
        self,
        auth: AuthConfig,
        listeners: Sequence[ListenerConfig],
        files: Mapping[Path, PasswordFile],
        connected: Iterable[ListenerConfig] = (),
    ) -> None:
        """Take other settings; ``files`` is what ``prepare`` returned for them.

        ``connected``: the listeners that clients came through, as they were then.
        """
        self._allow_anonymous = auth.allow_anonymous
        self._files.apply(auth, listeners, files, connected)
        self._verifier.reconfigure(
            threads=thread_count(auth.password_threads),
            max_pending=auth.max_pending_passwords,
            max_remembered=auth.max_remembered_passwords,
        )

    @property
    def waiting_count(self) -> int:
        """How many password hashes wait for a thread."""
        return self._verifier.waiting_count

    def close(self) -> None:
        """Shut the threads down."""
        self._verifier.close()

    def authenticate_now(
        self,
        client_id: str,
        username: str | None,
        password: bytes | None,
        peer: Peer,
        listener: ListenerConfig,
    ) -> Decision | None:
        """Return the decision if it needs no costly hash, else None.

        With an identity from the certificate no password is needed, and user name and password of
        CONNECT are ignored; where certificates are optional, a client without one authenticates
        like any other. Without a password file a user name is not verified, and is accepted if
        anonymous clients are. An empty one is none, as in mosquitto and in the access rules.
        """
        tls = listener.tls
        if tls.identity_as_username != "off":
            has_certificate = bool(peer.tls.certificate_common_name or peer.tls.certificate_subject)
            if has_certificate or tls.client_certificates == "required":
                return self._by_certificate(peer, tls.identity_as_username)
        allowed = listener.allow_anonymous
        anonymous = self._allow_anonymous if allowed is None else allowed
        if not username:
            return _ANONYMOUS if anonymous else _NOT_ANONYMOUS
        file = self._files.of(listener)
        if file is None:
            return Decision(True, username) if anonymous else _UNKNOWN_USER
        if password is None:
            return _NO_PASSWORD
        result = self._verifier.verify_now(file, username, password)
        return None if result is None else _decision(result, username)

    async def authenticate(
        self,
        client_id: str,
        username: str | None,
        password: bytes | None,
        peer: Peer,
        listener: ListenerConfig,
        timeout_s: float = math.inf,
    ) -> Decision:
        """Return the decision, waiting for a thread where a hash is costly.

        Refuses with Server busy when it cannot be there in ``timeout_s``. To be cancelled when the
        client has gone: what nobody waits for is not computed.
        """
        decision = self.authenticate_now(client_id, username, password, peer, listener)
        if decision is not None:
            return decision
        file = self._files.of(listener)
        assert file is not None
        assert username is not None
        assert password is not None
        result = await self._verifier.verify(file, username, password, peer.address, timeout_s)
        decision = _decision(result, username)
        # The file may have changed meanwhile.
        if not decision.allowed or self.knows(username, listener):
            return decision
        return _UNKNOWN_USER

    def knows(self, username: str | None, listener: ListenerConfig) -> bool:
        """Whether the password file of a listener has a user; true for all without such a file."""
        file = self._files.of(listener)
        return file is None or username in file.users

    @staticmethod
    def _by_certificate(peer: Peer, identity: str) -> Decision:
        by_name = identity == "cn"
        name = peer.tls.certificate_common_name if by_name else peer.tls.certificate_subject
        return Decision(True, name) if name else _NO_CERTIFICATE

    @staticmethod
    def _load(path: Path) -> PasswordFile:
        try:
            file = PasswordFile.load(path)
        except PasswordFileError as error:
            raise PasswordFileError(f"password_file {path}: {error}") from None
        for problem in file.problems[:_LOGGED_PROBLEMS]:
            log.warning(
                "malformed or duplicate line in password file",
                extra={"path": str(path), "problem": problem},
            )
        return file


def _decision(result: PasswordCheck, username: str) -> Decision:
    if result is PasswordCheck.ACCEPTED:
        return Decision(True, username, by_password=True)
    return _BUSY if result is PasswordCheck.BUSY else _refused(result.value)
