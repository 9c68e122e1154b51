"""Which Services publish the listeners of a spec, and what about them cannot be. Pure.

Used by ``render`` and for the status; ``problems`` reports what is wrong.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass

from tidegate_operator import names
from tidegate_operator.spec.broker import MqttBrokerSpec
from tidegate_operator.spec.listeners import ListenerSpec
from tidegate_operator.spec.services import ServiceSettings


@dataclass(slots=True, frozen=True)
class ClientService:
    """A Service, and the listeners that it publishes."""

    name: str
    settings: ServiceSettings
    listeners: tuple[ListenerSpec, ...]


def service_name(broker: str, listener: ListenerSpec) -> str:
    """Return the name of the Service that publishes a listener; "" if none does."""
    own = listener.service
    if own is None:
        return names.client_service(broker)
    if own.type == "None":
        return ""
    return own.name or names.listener_service(broker, listener.name)


def client_services(broker: str, spec: MqttBrokerSpec) -> list[ClientService]:
    """Return the Services of a broker, in the order of the listeners."""
    published: dict[str, list[ListenerSpec]] = {}
    for listener in spec.listeners:
        if name := service_name(broker, listener):
            published.setdefault(name, []).append(listener)
    return [
        ClientService(name, listeners[0].service or spec.service, tuple(listeners))
        for name, listeners in published.items()
    ]


def service_problems(broker: str, spec: MqttBrokerSpec) -> list[str]:
    """Return a sentence for each Service that cannot be made."""
    reserved = names.reserved_services(broker)
    if spec.console.enabled:
        reserved += names.console_services(broker)
    found = []
    for index, listener in enumerate(spec.listeners):
        name = service_name(broker, listener)
        if listener.service is not None and name in reserved:
            found.append(
                f"spec.listeners[{index}].service.name: {name} is the name of another Service of "
                "the broker"
            )
    found += _disagreements(broker, spec)
    for service in client_services(broker, spec):
        for port, count in Counter(one.exposed_port for one in service.listeners).items():
            if count > 1:
                found.append(
                    f"spec: two listeners have the servicePort {port} on Service {service.name}"
                )
    return found


def _disagreements(broker: str, spec: MqttBrokerSpec) -> Iterator[str]:
    """Yield a sentence for each listener that wants a Service otherwise than one before it."""
    first: dict[str, ListenerSpec] = {}
    for index, listener in enumerate(spec.listeners):
        own = listener.service
        if own is None or (own.type == "None" and own.name is None):
            continue
        name = own.name or names.listener_service(broker, listener.name)
        other = first.setdefault(name, listener)
        assert other.service is not None
        if own.model_dump(exclude={"name"}) != other.service.model_dump(exclude={"name"}):
            yield (
                f"spec.listeners[{index}].service: listener {other.name} has the same Service "
                f"({name}), with other settings; give one of them another service.name"
            )
