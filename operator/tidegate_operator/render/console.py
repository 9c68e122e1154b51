"""The console: its configuration, pods, Services and budget. Pure.

It reads the store as routers do, and asks edges and routers at their admin port with the token that
they have. Nothing of it exists unless ``spec.console.enabled`` is true.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Final

from tidegate.runtime.config.model import LogConfig, TelemetryConfig
from tidegate_operator import names
from tidegate_operator.names import (
    ADMIN_PORT,
    CERTIFICATE_DIR,
    CONDITIONS_DIR,
    CONDITIONS_FILE,
    CONSOLE_PORT,
    FILES_DIR,
    Process,
)
from tidegate_operator.render import network
from tidegate_operator.render.broker_config import (
    BUNDLED_PASSWORD,
    as_yaml,
    explicit_settings,
    store_config,
)
from tidegate_operator.render.inputs import Broker, Inputs, Manifest
from tidegate_operator.render.pod_template import process_container, process_volumes, template
from tidegate_operator.render.restart_hash import digest
from tidegate_operator.render.scaling import budget
from tidegate_operator.render.workloads import PROGRESS_DEADLINE_S, REVISION_HISTORY
from tidegate_operator.secrets.references import (
    CERTIFICATE_KEY,
    CONSOLE_PAIR,
    PRIVATE_KEY,
    STORE_FILE_PREFIX,
    TOKENS_FILE,
    USERS_FILE,
)

COMPONENT: Final = "console"
#: The file with the token that the operator makes.
FIRST_TOKEN_FILE: Final = "first-token"  # noqa: S105  # the name of a file
#: From SIGTERM to SIGKILL: it finishes the requests under way, and has nothing to hand over.
_GRACE_S: Final = 30


def console(inputs: Inputs) -> Iterator[Manifest]:
    """Yield its objects, in the order in which they are applied."""
    if not inputs.spec.console.enabled:
        return
    broker = inputs.broker
    name = names.workload(broker.name, COMPONENT)
    files = console_files(inputs)
    config = console_config(broker)
    if inputs.spec.console.has_own_token:
        yield broker.secret(
            names.console_token(broker.name),
            COMPONENT,
            {"token": inputs.owned_secrets.console_token},
        )
    yield broker.secret(name, COMPONENT, files)
    yield {
        "apiVersion": "v1",
        "kind": "ConfigMap",
        "metadata": broker.metadata(name, COMPONENT),
        "data": {names.CONFIG_FILE: as_yaml(config)},
    }
    yield from _services(inputs)
    yield _deployment(inputs, config)
    yield budget(broker, COMPONENT, None)


def console_files(inputs: Inputs) -> dict[str, bytes]:
    """Return the files that it reads: its Secret's data."""
    owned, referenced = inputs.owned_secrets, inputs.referenced_files
    files = {
        file: content
        for file, content in referenced.router.items()
        if file.startswith(STORE_FILE_PREFIX)
    }
    # Without its Secret a file is empty: nobody comes in by it, and pods start.
    console = inputs.spec.console
    for file, source in ((USERS_FILE, console.users), (TOKENS_FILE, console.tokens)):
        if source is not None:
            files[file] = referenced.console.get(file, b"")
    if console.tls is not None:
        # Without them its pods wait: they never serve plain HTTP instead.
        pair = (f"{CONSOLE_PAIR}.crt", f"{CONSOLE_PAIR}.key")
        files |= {file: referenced.console[file] for file in pair if file in referenced.console}
    files["admin-token"] = owned.admin_token
    if inputs.spec.redis.own is not None:
        files[BUNDLED_PASSWORD] = owned.redis_password
    if console.has_own_token:
        files[FIRST_TOKEN_FILE] = b"admin " + owned.console_token.strip() + b"\n"
    return files


def console_config(broker: Broker) -> dict[str, Any]:
    """Return its configuration."""
    spec = broker.spec
    service = names.workload(broker.name, COMPONENT)
    config: dict[str, Any] = {
        "address": "*",
        "port": CONSOLE_PORT,
        "edges": [_nodes_address(broker, "edge")],
        "routers": [_nodes_address(broker, "router")],
        "token_file": f"{FILES_DIR}/admin-token",
        "conditions_file": f"{CONDITIONS_DIR}/{CONDITIONS_FILE}",
        "allowed_hosts": [
            service,
            f"{service}.{broker.namespace}",
            f"{service}.{broker.namespace}.svc",
            *spec.console.allowed_hosts,
            *(spec.console.gateway.hostnames if spec.console.gateway is not None else ()),
        ],
    }
    if spec.console.tls is not None:
        config["tls_certificate"] = f"{CERTIFICATE_DIR}/{CERTIFICATE_KEY}"
        config["tls_key"] = f"{CERTIFICATE_DIR}/{PRIVATE_KEY}"
    if spec.console.users is not None:
        config["users_file"] = f"{FILES_DIR}/{USERS_FILE}"
    if spec.console.tokens is not None:
        config["tokens_file"] = f"{FILES_DIR}/{TOKENS_FILE}"
    elif spec.console.has_own_token:
        config["tokens_file"] = f"{FILES_DIR}/{FIRST_TOKEN_FILE}"
    if "session_lifetime_s" in spec.console.model_fields_set:
        config["session_lifetime_s"] = spec.console.session_lifetime_s
    sections = {
        "store": store_config(broker),
        "console": config,
        "telemetry": explicit_settings(spec.telemetry, TelemetryConfig),
        "log": {"format": spec.log.format} | explicit_settings(spec.log, LogConfig),
    }
    return {name: section for name, section in sections.items() if section}


def _nodes_address(broker: Broker, process: Process) -> str:
    return f"{names.nodes_service(broker.name, process)}.{broker.namespace}.svc:{ADMIN_PORT}"


def _services(inputs: Inputs) -> Iterator[Manifest]:
    """Yield the Service of the console, and those by which it finds edges and routers."""
    broker, console = inputs.broker, inputs.spec.console
    service = network.service(
        broker, names.workload(broker.name, COMPONENT), COMPONENT, console.service
    )
    service["spec"]["selector"] = names.selector(broker.name, COMPONENT)
    service["spec"]["ports"] = [
        {
            "name": console.scheme,
            "port": console.exposed_port,
            "targetPort": CONSOLE_PORT,
            "protocol": "TCP",
            "appProtocol": console.scheme,
        }
    ]
    yield service
    for process in names.PROCESSES:
        yield network.headless(
            broker,
            names.nodes_service(broker.name, process),
            COMPONENT,
            names.selector(broker.name, process),
            "admin",
            ADMIN_PORT,
            # A node that is not ready is what somebody looks for.
            with_unready=True,
        )


def _conditions_volume() -> Manifest:
    """Return the volume with the pod's annotation of the broker's conditions; empty without."""
    annotation = {"fieldPath": f"metadata.annotations['{names.CONDITIONS}']"}
    items = [{"path": CONDITIONS_FILE, "fieldRef": annotation}]
    return {"name": "broker", "downwardAPI": {"items": items}}


def _certificate_volume(broker: Broker) -> Manifest:
    """Return the volume of certificate and key; the kubelet mounts it when the Secret has them."""
    keys = ((f"{CONSOLE_PAIR}.crt", CERTIFICATE_KEY), (f"{CONSOLE_PAIR}.key", PRIVATE_KEY))
    return {
        "name": "certificate",
        "secret": {
            "secretName": names.workload(broker.name, COMPONENT),
            "defaultMode": 0o440,
            "items": [{"key": key, "path": path} for key, path in keys],
        },
    }


def _deployment(inputs: Inputs, config: dict[str, Any]) -> Manifest:
    broker, settings = inputs.broker, inputs.spec.console
    container = process_container(inputs, COMPONENT, settings)
    container["ports"] = [
        {"name": settings.scheme, "containerPort": CONSOLE_PORT, "protocol": "TCP"}
    ]
    for probe in ("readinessProbe", "livenessProbe"):
        container[probe]["httpGet"] |= {"port": CONSOLE_PORT, "scheme": settings.scheme.upper()}
    volumes = [*process_volumes(broker, COMPONENT), _conditions_volume()]
    container["volumeMounts"].append(
        {"name": "broker", "mountPath": CONDITIONS_DIR, "readOnly": True}
    )
    if settings.tls is not None:
        volumes.append(_certificate_volume(broker))
        container["volumeMounts"].append(
            {"name": "certificate", "mountPath": CERTIFICATE_DIR, "readOnly": True}
        )
    pod_template = template(
        inputs,
        COMPONENT,
        settings,
        [container],
        volumes,
        _GRACE_S,
        {names.RESTART_HASH: digest(config)},
    )
    return {
        "apiVersion": "apps/v1",
        "kind": "Deployment",
        "metadata": broker.metadata(names.workload(broker.name, COMPONENT), COMPONENT),
        "spec": {
            "replicas": settings.replicas,
            "revisionHistoryLimit": REVISION_HISTORY,
            "progressDeadlineSeconds": PROGRESS_DEADLINE_S,
            "selector": {"matchLabels": names.selector(broker.name, COMPONENT)},
            "strategy": {
                "type": "RollingUpdate",
                "rollingUpdate": {"maxSurge": 1, "maxUnavailable": 0},
            },
            "template": pod_template,
        },
    }
