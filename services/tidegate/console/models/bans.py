"""Shapes of bans."""

from __future__ import annotations

from typing import Annotated, Self

from pydantic import Field, model_validator

from tidegate.console.models.common import Model, Page

Value = Annotated[str, Field(min_length=1, max_length=65_535, pattern=r"^[^\x00]*$")]


class NewBan(Model):
    """Whom a ban names: a client identifier, a user, or an address or network; one of them."""

    client: Value | None = None
    mount_point: str = Field(default="", max_length=65_535, pattern=r"^[^\x00]*$")
    """Of the client's listener; empty: none."""
    user: Value | None = None
    address: Annotated[str, Field(max_length=100)] | None = None
    """IP address, or network in CIDR notation."""
    reason: str = Field(default="", max_length=256)
    until: Annotated[float, Field(gt=0, le=1e11)] | None = None
    """When it ends, seconds since 1970; null: never."""

    @model_validator(mode="after")
    def _one_of_them(self) -> Self:
        if sum(each is not None for each in (self.client, self.user, self.address)) != 1:
            raise ValueError("give one of client, user and address")
        return self


class BanInfo(Model):
    """A ban that is in force. Times in seconds since 1970."""

    id: str
    client: str | None = None
    mount_point: str | None = None
    user: str | None = None
    address: str | None = None
    reason: str
    until: float | None = None
    at: float
    by: str
    """Who has made it."""


class BanPage(Page[BanInfo]):
    """Bans, the newest first."""
