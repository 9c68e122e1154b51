"""The section ``console`` of the configuration."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Self

from pydantic import Field, field_validator, model_validator

from tidegate.runtime.config.addresses import process_address
from tidegate.runtime.config.section import Section


class ConsoleConfig(Section):
    """The console: an HTTP API about the whole broker, and a page that uses it."""

    enabled: bool = True
    """Whether `tidegate serve` starts the console (if the extra `console` is installed)."""
    address: str = "127.0.0.1"
    """IP address; `*`: all, IPv4 and IPv6."""
    port: Annotated[int, Field(ge=0, le=65535)] = 18080
    """TCP port; 0: chosen by the system and printed at the start."""
    edges: list[str] = []
    """Addresses of the admin servers of the edges: HOST:PORT (all addresses of a host name are
    used) or unix:PATH. `tidegate serve` sets it itself."""
    routers: list[str] = []
    """Addresses of the admin servers of the routers, in the same way."""
    token_file: Path | None = None
    """File with the bearer token of the admin servers of edges and routers; unset:
    `admin.token_file`."""
    users_file: Path | None = None
    """Users of the console: a password file as `tidegate passwd` writes it (argon2id), with the
    role after a second colon: `USER:HASH:ROLE`. Roles are viewer, operator and admin; a user
    without one is a viewer."""
    tokens_file: Path | None = None
    """Tokens that are valid besides those made with the API: one line `ROLE TOKEN` each."""
    allowed_hosts: list[str] = []
    """Host names under which the console is reached, without port (`*.example.com` allowed).
    Requests for other names are refused, but for IP addresses and `localhost`."""
    session_lifetime_s: Annotated[int, Field(ge=60, le=2_592_000)] = 43_200
    """Time after which a user has to log in again."""
    conditions_file: Path | None = None
    """JSON file with the conditions of the MqttBroker, which the overview shows; the operator sets
    it."""
    tls_certificate: Path | None = None
    """PEM file with the certificate of the console and its chain; unset: plain HTTP."""
    tls_key: Path | None = None
    """PEM file with the private key."""

    @field_validator("edges", "routers")
    @classmethod
    def _nodes_are_addresses(cls, value: list[str]) -> list[str]:
        return [process_address(address) for address in value]

    @model_validator(mode="after")
    def _certificate_has_a_key(self) -> Self:
        if (self.tls_certificate is None) != (self.tls_key is None):
            raise ValueError("tls_certificate and tls_key must be set together")
        return self
