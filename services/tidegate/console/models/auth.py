"""Shapes of logins, tokens and the audit."""

from __future__ import annotations

from typing import Annotated, Any, Self

from pydantic import Field, model_validator

from tidegate.console.caller import Role
from tidegate.console.models.common import Model, Page

Name = Annotated[str, Field(min_length=1, max_length=200, pattern=r"^[^\x00-\x1f\x7f]+$")]


class Login(Model):
    """A user's name and password, or a token."""

    user: str = Field(default="", max_length=1024)
    password: str = Field(default="", max_length=4096)
    token: str = Field(default="", max_length=1024)

    @model_validator(mode="after")
    def _one_of_both(self) -> Self:
        if bool(self.token) == bool(self.user):
            raise ValueError("give either user and password, or token")
        return self


class Me(Model):
    """Who makes the request."""

    user: str
    """The user's name, or `token:NAME`."""
    role: Role
    csrf: str
    """Value of the header X-CSRF-Token of requests that change something; empty for a token."""
    can_log_out: bool
    """Whether there is a session that can be ended."""


class TokenInfo(Model):
    """A token, without its secret. Times in seconds since 1970."""

    id: str
    name: str
    role: Role
    created_at: float | None = None
    created_by: str = ""
    expires_at: float | None = None
    from_file: bool = False
    """Whether it is in console.tokens_file, and so cannot be deleted here."""


class TokenPage(Page[TokenInfo]):
    """All tokens."""


class NewToken(Model):
    """What a new token is to be."""

    name: Name
    role: Role
    lifetime_s: Annotated[int, Field(ge=60, le=315_360_000)] | None = None
    """Time after which it is not valid any more; null: no end."""


class CreatedToken(TokenInfo):
    """A new token, and its secret, which is not shown again."""

    token: str


class AuditEntry(Model):
    """A change that somebody has made, or tried to make."""

    id: str
    at: float
    """Seconds since 1970."""
    user: str
    role: str
    action: str
    target: str
    outcome: str
    """done, or why it was not."""
    address: str
    """IP address that the request came from."""
    detail: dict[str, Any] = {}


class AuditPage(Page[AuditEntry]):
    """Changes, the newest first."""
