"""The configuration that edges and routers read: a ``Config`` of the runtime, as YAML.

Only what the spec says is written, so that everything else has the default of the version that
runs. What is written here is what ``tidegate check`` checks.
"""

from __future__ import annotations

from typing import Any, Final

import yaml
from pydantic import ValidationError

from tidegate.runtime.config.config_file import path_text
from tidegate.runtime.config.model import (
    AuthConfig,
    Config,
    DrainConfig,
    FeaturesConfig,
    LimitsConfig,
    LinkConfig,
    ListenerConfig,
    LogConfig,
    Section,
    StoreConfig,
    TelemetryConfig,
    TlsConfig,
)
from tidegate_operator.names import (
    ADMIN_PORT,
    FILES_DIR,
    LINK_PORT,
    REDIS_PORT,
    routers_service,
    workload,
)
from tidegate_operator.render.inputs import Broker
from tidegate_operator.secrets.references import store_file
from tidegate_operator.spec.broker import MqttBrokerSpec
from tidegate_operator.spec.fields import SpecSection
from tidegate_operator.spec.listeners import ListenerSpec, ListenerTls

Data = dict[str, Any]

_ANYWHERE: Final = "*"
#: The file with the bundled store's password; those for external ones are called otherwise (see
#: ``references.store_file``).
BUNDLED_PASSWORD: Final = "store-password"  # noqa: S105  # the name of a file


def edge_config(broker: Broker) -> Data:
    """Return the configuration of the edges."""
    spec = broker.spec
    auth = given(spec.auth, AuthConfig)
    if spec.auth.passwords is not None:
        auth["password_file"] = f"{FILES_DIR}/passwords"
    if spec.acl is not None:
        auth["acl_file"] = f"{FILES_DIR}/acl"
    link = given(spec.link, LinkConfig)
    link["routers"] = [f"{routers_service(broker.name)}.{broker.namespace}.svc:{LINK_PORT}"]
    link["tls"] = _link_tls()
    drain = given(spec.edge.drain, DrainConfig)
    drain["delay_s"] = spec.edge.drain.delay_s
    config: Data = {
        "listeners": [_listener(listener) for listener in spec.listeners],
        "auth": auth,
        **_common(spec),
        "link": link,
        "drain": drain,
    }
    # Edges and routers must agree on when an edge is dead.
    lease = {key: value for key, value in given(spec.redis, StoreConfig).items() if _is_lease(key)}
    return _finished(config | {"store": lease}, spec.edge)


def router_config(broker: Broker) -> Data:
    """Return the configuration of the routers."""
    spec = broker.spec
    link = given(spec.link, LinkConfig)
    link.pop("discovery_interval_s", None)
    link["listen"] = f"[::]:{LINK_PORT}"
    link["tls"] = _link_tls()
    config: Data = {"store": _store(broker), **_common(spec), "link": link}
    return _finished(config, spec.router)


def refused(broker: Broker) -> list[str]:
    """Return why edges or routers would refuse to start with this spec: nothing, if the spec's own
    rules have seen to it. Whatever they have missed must not reach a pod either."""
    found: dict[str, None] = {}
    for config in (edge_config(broker), router_config(broker)):
        try:
            Config.model_validate(config)
        except ValidationError as error:
            for problem in error.errors():
                place = path_text(tuple(problem["loc"]))
                why = problem.get("ctx", {}).get("error", problem["msg"])
                # Mostly the same for both.
                found[f"spec: the configuration made of it cannot be used: {place}: {why}"] = None
    return list(found)


def _finished(config: Data, workload_spec: SpecSection) -> Data:
    """Add what is set for a workload, and leave out empty sections."""
    config |= {
        key: getattr(workload_spec, key)
        for key in ("shutdown_timeout_s",)
        if key in workload_spec.model_fields_set
    }
    return {key: value for key, value in config.items() if value != {}}


def _is_lease(key: str) -> bool:
    return key == "edge_lease_s"


def _common(spec: MqttBrokerSpec) -> Data:
    """Return what edges and routers have in common."""
    log = given(spec.log, LogConfig)
    return {
        "limits": given(spec.limits, LimitsConfig),
        "features": given(spec.features, FeaturesConfig),
        "admin": {
            "address": _ANYWHERE,
            "port": ADMIN_PORT,
            "token_file": f"{FILES_DIR}/admin-token",
        },
        "telemetry": given(spec.telemetry, TelemetryConfig),
        "log": {"format": spec.log.format} | log,
    }


def _link_tls() -> Data:
    return {
        "certificate": f"{FILES_DIR}/link.crt",
        "key": f"{FILES_DIR}/link.key",
        "ca": f"{FILES_DIR}/link-ca.crt",
    }


def _listener(listener: ListenerSpec) -> Data:
    found: Data = {
        "name": listener.name,
        "protocol": listener.protocol,
        "address": _ANYWHERE,
        "port": listener.pod_port,
    }
    for key, value in given(listener, ListenerConfig).items():
        found.setdefault(key, value)
    if listener.allow_anonymous is None:
        found.pop("allow_anonymous", None)
    found.pop("tls", None)
    if listener.tls is not None:
        found["tls"] = _tls(listener.name, listener.tls)
    return found


def _tls(name: str, tls: ListenerTls) -> Data:
    file = f"{FILES_DIR}/listener.{name}"
    certificates: list[Data] = [{"certificate": f"{file}.crt", "key": f"{file}.key"}]
    for number, more in enumerate(tls.additional_certificates, 1):
        pair: Data = {"certificate": f"{file}.{number}.crt", "key": f"{file}.{number}.key"}
        if more.server_names:
            pair["server_names"] = list(more.server_names)
        certificates.append(pair)
    found: Data = {"certificates": certificates, **given(tls, TlsConfig)}
    found.pop("client_ca", None)
    if tls.client_ca is not None:
        found["client_ca"] = f"{file}.client-ca"
    return found


def _store(broker: Broker) -> Data:
    redis = broker.spec.redis
    found = given(redis, StoreConfig)
    external = redis.external
    if external is None:
        service = workload(broker.name, "redis")
        return found | {
            "url": f"redis://{service}.{broker.namespace}.svc:{REDIS_PORT}/0",
            "password_file": f"{FILES_DIR}/{BUNDLED_PASSWORD}",
        }
    found["url"] = external.url
    for key, value in (
        ("username", external.username),
        ("sentinel_username", external.sentinel_username),
    ):
        if value is not None:
            found[key] = value
    if external.password_secret is not None:
        found["password_file"] = f"{FILES_DIR}/{store_file(external, 'password')}"
    if external.sentinel_password_secret is not None:
        file = store_file(external, "sentinel-password")
        found["sentinel_password_file"] = f"{FILES_DIR}/{file}"
    tls = external.tls
    if tls is not None and tls.ca is not None:
        found["tls_ca"] = f"{FILES_DIR}/{store_file(external, 'ca.crt')}"
    if tls is not None and tls.certificate_secret_name is not None:
        pair = f"{FILES_DIR}/{store_file(external, 'client')}"
        found["tls_certificate"] = f"{pair}.crt"
        found["tls_key"] = f"{pair}.key"
    return found


def given(section: SpecSection, target: type[Section]) -> Data:
    """Return what is set in a section of the spec and is a setting of ``target`` too."""
    return {
        name: getattr(section, name)
        for name in target.model_fields
        if name in section.model_fields_set and not isinstance(getattr(section, name), Section)
    }


def as_yaml(config: Data) -> str:
    """Return a configuration as the file that a process reads."""
    text: str = yaml.safe_dump(config, sort_keys=False, allow_unicode=True, width=100)
    return text
