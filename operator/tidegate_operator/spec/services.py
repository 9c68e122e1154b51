"""Settings of the Services for clients: ``spec.service`` and ``spec.listeners[].service``.

``client_services`` says which of them there are, and which listeners each one publishes.
"""

from __future__ import annotations

from typing import Annotated, Literal, Self

from pydantic import Field, StringConstraints, field_validator, model_validator

from tidegate.runtime.config.model import check_networks
from tidegate_operator.names import BROKER_NAME_PATTERN
from tidegate_operator.spec.fields import LabelMap, SpecSection, rules

#: The name of a Service: a label of DNS.
ServiceName = Annotated[
    str, StringConstraints(pattern=BROKER_NAME_PATTERN, min_length=1, max_length=63)
]


class ServiceSettings(SpecSection):
    """What a Service for clients is made of."""

    model_config = rules(
        (
            "!has(self.class) || (has(self.type) && self.type == 'LoadBalancer')",
            "class requires type LoadBalancer",
        ),
        (
            "!has(self.loadBalancerSourceRanges) || self.loadBalancerSourceRanges.size() == 0"
            " || (has(self.type) && self.type == 'LoadBalancer')",
            "loadBalancerSourceRanges requires type LoadBalancer",
        ),
        (
            "!has(self.externalTrafficPolicy)"
            " || (has(self.type) && self.type in ['LoadBalancer', 'NodePort'])",
            "externalTrafficPolicy requires type LoadBalancer or NodePort",
        ),
    )

    type: Literal["ClusterIP", "NodePort", "LoadBalancer", "None"] = "ClusterIP"
    """Type of the Service. LoadBalancer requests an external address from the cloud provider."""
    load_balancer_class: Annotated[str, Field(max_length=253)] | None = Field(
        default=None, alias="class"
    )
    """The load balancer implementation (spec.loadBalancerClass of the Service)."""
    annotations: LabelMap = Field(default_factory=dict)
    """Annotations of the Service; annotations set by others are kept."""
    labels: LabelMap = Field(default_factory=dict)
    """Labels of the Service."""
    load_balancer_source_ranges: list[Annotated[str, Field(max_length=49)]] = Field(
        default_factory=list, max_length=256
    )
    """Networks (CIDR) that may connect; empty: all."""
    external_traffic_policy: Literal["Cluster", "Local"] | None = None
    """Local preserves client addresses, and routes only to nodes that run edges."""
    ip_family_policy: Literal["SingleStack", "PreferDualStack", "RequireDualStack"] | None = None
    """IPv4, IPv6 or both; unset: the current value of the Service (initially the cluster's
    default)."""

    _check_networks = field_validator("load_balancer_source_ranges")(check_networks)

    @model_validator(mode="after")
    def _type_fits(self) -> Self:
        if self.type != "LoadBalancer":
            if self.load_balancer_class is not None:
                raise ValueError("class requires type LoadBalancer")
            if self.load_balancer_source_ranges:
                raise ValueError("load_balancer_source_ranges requires type LoadBalancer")
        is_external = self.type in {"LoadBalancer", "NodePort"}
        if self.external_traffic_policy is not None and not is_external:
            raise ValueError("external_traffic_policy requires type LoadBalancer or NodePort")
        return self


class ServiceSpec(ServiceSettings):
    """The Service that clients connect to."""

    type: Literal["ClusterIP", "NodePort", "LoadBalancer"] = "ClusterIP"
    """Type of the Service. LoadBalancer requests an external address from the cloud provider."""


class ListenerServiceSpec(ServiceSettings):
    """A Service of a listener; it takes no setting from `spec.service`."""

    type: Literal["ClusterIP", "NodePort", "LoadBalancer", "None"] = "ClusterIP"
    """Type of the Service. LoadBalancer requests an external address from the cloud provider. None:
    no Service publishes the listener, and the other settings have no effect."""
    name: ServiceName | None = None
    """Name of the Service; unset: BROKER-LISTENER. Listeners with the same name share the Service;
    all their settings of it must be the same."""
