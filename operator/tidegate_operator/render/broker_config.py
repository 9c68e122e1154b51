"""The configuration file of edges and routers: a ``Config`` of the runtime, as YAML. Pure.

Only explicit settings are written, so that everything else has the default of the running version.
"""

from __future__ import annotations

from enum import Enum
from typing import Any, Final

import yaml
from pydantic import ValidationError

from tidegate.runtime.config.model import (
    AuthConfig,
    Config,
    DrainConfig,
    FeaturesConfig,
    FlappingConfig,
    LimitsConfig,
    LinkConfig,
    ListenerConfig,
    LogConfig,
    RecordConfig,
    Section,
    StoreConfig,
    TelemetryConfig,
    TlsConfig,
)
from tidegate.runtime.config.validation import path_text
from tidegate_operator.names import (
    ADMIN_PORT,
    FILES_DIR,
    LINK_PORT,
    REDIS_PORT,
    SENTINEL_PORT,
    STORE_NAME,
    routers_service,
    store_members,
    workload,
)
from tidegate_operator.render.inputs import Broker
from tidegate_operator.secrets.references import listener_file, store_file
from tidegate_operator.spec.broker import MqttBrokerSpec
from tidegate_operator.spec.fields import SpecSection
from tidegate_operator.spec.listeners import ListenerSpec, ListenerTls

ConfigValues = dict[str, Any]

_ALL_ADDRESSES: Final = "*"
#: The file with the password of the bundled store. Files for external stores have other names (see
#: ``references.store_file``).
BUNDLED_PASSWORD: Final = "store-password"  # noqa: S105  # the name of a file


def edge_config(broker: Broker) -> ConfigValues:
    """Return the configuration of the edges."""
    spec = broker.spec
    auth = explicit_settings(spec.auth, AuthConfig)
    if spec.auth.passwords is not None:
        auth["password_file"] = f"{FILES_DIR}/passwords"
    if spec.acl is not None:
        auth["acl_file"] = f"{FILES_DIR}/acl"
    link = explicit_settings(spec.link, LinkConfig)
    link["routers"] = [f"{routers_service(broker.name)}.{broker.namespace}.svc:{LINK_PORT}"]
    link["tls"] = _link_tls()
    drain = explicit_settings(spec.edge.drain, DrainConfig)
    drain["delay_s"] = spec.edge.drain.delay_s
    config: ConfigValues = {
        "listeners": [_listener(listener) for listener in spec.listeners],
        "auth": auth,
        **_common(spec),
        "link": link,
        "drain": drain,
    }
    # Edges and routers must use the same lease.
    lease = {
        key: value
        for key, value in explicit_settings(spec.redis, StoreConfig).items()
        if _is_lease(key)
    }
    return _complete(config | {"store": lease}, spec.edge)


def router_config(broker: Broker) -> ConfigValues:
    """Return the configuration of the routers."""
    spec = broker.spec
    link = explicit_settings(spec.link, LinkConfig)
    link.pop("discovery_interval_s", None)
    link["listen"] = f"[::]:{LINK_PORT}"
    link["tls"] = _link_tls()
    config: ConfigValues = {"store": store_config(broker), **_common(spec), "link": link}
    return _complete(config, spec.router)


def runtime_problems(broker: Broker) -> list[str]:
    """Return why edges or routers would reject the configuration of this spec, one sentence each.

    Empty if the validation of the spec is complete; this keeps what it misses out of pods.
    """
    problems: dict[str, None] = {}
    for config in (edge_config(broker), router_config(broker)):
        try:
            Config.model_validate(config)
        except ValidationError as error:
            for problem in error.errors():
                path = path_text(tuple(problem["loc"]))
                reason = problem.get("ctx", {}).get("error", problem["msg"])
                # Mostly the same for edges and routers.
                problems[f"spec: invalid configuration: {path}: {reason}"] = None
    return list(problems)


def _complete(config: ConfigValues, workload_spec: SpecSection) -> ConfigValues:
    """Add the settings of a workload, and remove empty sections."""
    config |= {
        key: getattr(workload_spec, key)
        for key in ("shutdown_timeout_s",)
        if key in workload_spec.model_fields_set
    }
    return {key: value for key, value in config.items() if value != {}}


def _is_lease(key: str) -> bool:
    return key == "edge_lease_s"


def _common(spec: MqttBrokerSpec) -> ConfigValues:
    """Return the sections that edges and routers share."""
    log = explicit_settings(spec.log, LogConfig)
    limits = explicit_settings(spec.limits, LimitsConfig)
    if flapping := explicit_settings(spec.limits.flapping, FlappingConfig):
        limits["flapping"] = flapping
    return {
        "limits": limits,
        "features": explicit_settings(spec.features, FeaturesConfig),
        "admin": {
            "address": _ALL_ADDRESSES,
            "port": ADMIN_PORT,
            "token_file": f"{FILES_DIR}/admin-token",
        },
        "telemetry": explicit_settings(spec.telemetry, TelemetryConfig),
        "log": {"format": spec.log.format} | log,
        "record": explicit_settings(spec.record, RecordConfig),
    }


def _link_tls() -> ConfigValues:
    return {
        "certificate": f"{FILES_DIR}/link.crt",
        "key": f"{FILES_DIR}/link.key",
        "ca": f"{FILES_DIR}/link-ca.crt",
    }


def _listener(listener: ListenerSpec) -> ConfigValues:
    config: ConfigValues = {
        "name": listener.name,
        "protocol": listener.protocol,
        "address": _ALL_ADDRESSES,
        "port": listener.pod_port,
    }
    for key, value in explicit_settings(listener, ListenerConfig).items():
        config.setdefault(key, value)
    if listener.allow_anonymous is None:
        config.pop("allow_anonymous", None)
    file = f"{FILES_DIR}/{listener_file(listener)}"
    if listener.passwords is not None:
        config["password_file"] = f"{file}.passwords"
    if listener.acl is not None:
        config["acl_file"] = f"{file}.acl"
    config.pop("tls", None)
    if listener.tls is not None:
        config["tls"] = _tls(file, listener.tls)
    return config


def _tls(file: str, tls: ListenerTls) -> ConfigValues:
    certificates: list[ConfigValues] = [{"certificate": f"{file}.crt", "key": f"{file}.key"}]
    for number, additional in enumerate(tls.additional_certificates, 1):
        pair: ConfigValues = {"certificate": f"{file}.{number}.crt", "key": f"{file}.{number}.key"}
        if additional.server_names:
            pair["server_names"] = list(additional.server_names)
        certificates.append(pair)
    config: ConfigValues = {"certificates": certificates, **explicit_settings(tls, TlsConfig)}
    config.pop("client_ca", None)
    if tls.client_ca is not None:
        config["client_ca"] = f"{file}.client-ca"
    config.pop("client_crl", None)
    if tls.client_crl is not None:
        config["client_crl"] = f"{file}.client-crl"
    return config


def store_config(broker: Broker) -> ConfigValues:
    """Return the section ``store``, of routers and of the console."""
    redis = broker.spec.redis
    config = explicit_settings(redis, StoreConfig)
    external = redis.external
    if external is None:
        return config | _bundled_store(broker)
    config["url"] = external.url
    for key, value in (
        ("username", external.username),
        ("sentinel_username", external.sentinel_username),
    ):
        if value is not None:
            config[key] = value
    if external.password_secret is not None:
        config["password_file"] = f"{FILES_DIR}/{store_file(external, 'password')}"
    if external.sentinel_password_secret is not None:
        file = store_file(external, "sentinel-password")
        config["sentinel_password_file"] = f"{FILES_DIR}/{file}"
    tls = external.tls
    if tls is not None and tls.ca is not None:
        config["tls_ca"] = f"{FILES_DIR}/{store_file(external, 'ca.crt')}"
    if tls is not None and tls.certificate_secret_name is not None:
        pair = f"{FILES_DIR}/{store_file(external, 'client')}"
        config["tls_certificate"] = f"{pair}.crt"
        config["tls_key"] = f"{pair}.key"
    return config


def _bundled_store(broker: Broker) -> ConfigValues:
    redis, password = broker.spec.redis, f"{FILES_DIR}/{BUNDLED_PASSWORD}"
    if not redis.is_replicated:
        service = workload(broker.name, "redis")
        url = f"redis://{service}.{broker.namespace}.svc:{REDIS_PORT}/0"
        return {"url": url, "password_file": password}
    assert redis.bundled is not None
    members = store_members(broker.name, broker.namespace, redis.bundled.replicas)
    hosts = ",".join(f"{member}:{SENTINEL_PORT}" for member in members)
    return {
        "url": f"redis+sentinel://{hosts}/{STORE_NAME}",
        "password_file": password,
        "sentinel_password_file": password,
        "durability": redis.promised_durability,
    }


def explicit_settings(section: SpecSection, target: type[Section]) -> ConfigValues:
    """Return the explicit settings of a section that ``target`` has too."""
    found = {
        name: getattr(section, name)
        for name in target.model_fields
        if name in section.model_fields_set and not isinstance(getattr(section, name), Section)
    }
    # As YAML has them.
    return {name: one.value if isinstance(one, Enum) else one for name, one in found.items()}


def as_yaml(config: ConfigValues) -> str:
    """Return the configuration file as YAML."""
    text: str = yaml.safe_dump(config, sort_keys=False, allow_unicode=True, width=100)
    return text
