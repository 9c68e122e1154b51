"""Sessions of users: a signed cookie, so that every console of the broker accepts it. Pure.

The cookie says who, how it was proved and until when; the role is looked up at every request. Ended
sessions are remembered by ``shared``.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import hmac
import json
import secrets
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

_MAX_COOKIE: Final = 4096


@dataclass(slots=True, frozen=True)
class Session:
    """What a cookie says."""

    id: str
    #: The user's name; "" when it was a token.
    user: str
    #: The token's identifier; "" when it was a user's password.
    token: str
    expires_at: float


def new_session(user: str, token: str, expires_at: float) -> Session:
    """Begin a session."""
    return Session(secrets.token_urlsafe(16), user, token, expires_at)


def seal(session: Session, key: bytes) -> str:
    """Return the cookie's value."""
    text = json.dumps([session.id, session.user, session.token, int(session.expires_at)])
    body = base64.urlsafe_b64encode(text.encode()).rstrip(b"=").decode()
    return f"{body}.{_mac(key, b'session', body)}"


def unseal(value: str, keys: Sequence[bytes], now_s: float) -> Session | None:
    """Return the session of a cookie; None if it is not ours, or over."""
    body, dot, mac = value.rpartition(".")
    if not dot or len(value) > _MAX_COOKIE:
        return None
    given = mac.encode(errors="replace")
    if not any(hmac.compare_digest(given, _mac(key, b"session", body).encode()) for key in keys):
        return None
    try:
        raw = base64.urlsafe_b64decode(body + "=" * (-len(body) % 4))
        identifier, user, token, expires_at = json.loads(raw)
    except (ValueError, binascii.Error):
        return None
    session = Session(identifier, user, token, expires_at)
    return session if now_s < session.expires_at else None


def csrf_of(session_id: str) -> str:
    """Return what requests of a session that change something must repeat.

    The identifier is as secret as the cookie that it is in, which no page can read.
    """
    return hashlib.sha256(b"csrf:" + session_id.encode("utf-8", "surrogatepass")).hexdigest()


def _mac(key: bytes, purpose: bytes, text: str) -> str:
    digest = hmac.digest(
        key, purpose + b":" + text.encode("utf-8", "surrogatepass"), hashlib.sha256
    )
    return base64.urlsafe_b64encode(digest).rstrip(b"=").decode()
