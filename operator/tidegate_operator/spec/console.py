"""``spec.console``: the pods of ``tidegate console``, and how they are reached."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from tidegate_operator.spec.fields import DataKey, ObjectName, OpaqueList, SpecSection
from tidegate_operator.spec.services import ServiceSettings
from tidegate_operator.spec.workloads import PodSettings


class ConsoleUsers(SpecSection):
    """Users of the console, in a Secret: lines `USER:HASH:ROLE` as `tidegate passwd --role` writes
    them; roles are viewer, operator and admin."""

    secret_name: ObjectName
    """The Secret."""
    key: DataKey = "users"
    """The key in it."""


class ConsoleTokens(SpecSection):
    """Tokens of the console, in a Secret: lines `ROLE TOKEN`."""

    secret_name: ObjectName
    """The Secret."""
    key: DataKey = "tokens"
    """The key in it."""


class ConsoleServiceSpec(ServiceSettings):
    """The Service of the console. It speaks plain HTTP: put an Ingress or a Gateway with TLS before
    it when others than `kubectl port-forward` use it."""

    type: Literal["ClusterIP", "NodePort", "LoadBalancer"] = "ClusterIP"
    """Type of the Service. LoadBalancer requests an external address from the cloud provider."""
    port: Annotated[int, Field(ge=1, le=65535)] = 80
    """Port of the Service."""


class ConsoleSpec(PodSettings):
    """The console: a page and an HTTP API about the whole broker, in pods of its own."""

    enabled: bool = False
    """Run it."""
    replicas: Annotated[int, Field(ge=1, le=10)] = 1
    """Number of pods."""
    users: ConsoleUsers | None = None
    """Who may log in with a password; reloaded without a restart."""
    tokens: ConsoleTokens | None = None
    """Tokens for programs and for a first login; reloaded without a restart. Without `users` and
    `tokens`, the operator makes a first token with the role admin (Secret NAME-console-token)."""
    allowed_hosts: list[Annotated[str, Field(min_length=1, max_length=253)]] = Field(
        default_factory=list, max_length=32
    )
    """Host names under which it is reached (`*.example.com` allowed), such as that of an Ingress.
    Requests for others are refused, but for those of the Service, IP addresses and `localhost`."""
    session_lifetime_s: Annotated[int, Field(ge=60, le=2_592_000)] = 43_200
    """Time after which a user has to log in again."""
    service: ConsoleServiceSpec = ConsoleServiceSpec()
    """The Service of the console."""
    network_policy_peers: OpaqueList = Field(default_factory=list)
    """Peers (as in a NetworkPolicy) that may connect to the console; empty: all. The node of the
    pod, and so `kubectl port-forward`, always may."""

    @property
    def has_own_token(self) -> bool:
        """Whether the operator makes the first token."""
        return self.enabled and self.users is None and self.tokens is None
