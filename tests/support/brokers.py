"""MqttBrokers for tests: specs, what is rendered from them, and snapshots that people can read."""

from __future__ import annotations

import base64
import copy
import datetime
import difflib
import os
import tempfile
from collections.abc import Iterable, Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any

import yaml

from support.certificates import Authority
from tidegate_operator.render import Broker, Inputs, Manifest, Settings, render
from tidegate_operator.secrets.certificates import (
    CertificateRequest,
    KeyPair,
    RotationPolicy,
    issue,
    new_authority,
)
from tidegate_operator.secrets.owned_secrets import LiveSecrets, OwnedSecrets, renew_secrets
from tidegate_operator.secrets.references import (
    Contents,
    Kind,
    ReferencedFiles,
    collect,
    references,
)
from tidegate_operator.spec.broker import MqttBrokerSpec
from tidegate_operator.spec.problems import parse

NOW = datetime.datetime(2026, 3, 1, 12, 0, tzinfo=datetime.UTC)
DAY = datetime.timedelta(days=1)
UID = "6f1d2c3e-0000-4000-8000-000000000001"
NAMESPACE = "iot"
ALL_OPTIONAL: Mapping[str, str] = {
    "ServiceMonitor": "monitoring.coreos.com/v1",
    "Certificate": "cert-manager.io/v1",
}

MINIMAL: dict[str, Any] = {
    "listeners": [{"name": "mqtt"}],
    "auth": {"allowAnonymous": True},
}

#: One port for everything behind a cloud's load balancer.
HEADLINE: dict[str, Any] = {
    "listeners": [{"name": "mqtt", "protocol": "auto", "tls": {"selfSigned": True}}],
    "auth": {"passwords": {"secretName": "users"}},
    "service": {
        "type": "LoadBalancer",
        "externalTrafficPolicy": "Local",
        "annotations": {"service.beta.kubernetes.io/aws-load-balancer-type": "external"},
    },
}

EVERYTHING: dict[str, Any] = {
    "image": "registry.example/tidegate:9",
    "imagePullPolicy": "IfNotPresent",
    "imagePullSecrets": [{"name": "registry"}],
    "listeners": [
        {
            "name": "devices",
            "protocol": "auto",
            "port": 9443,
            "servicePort": 443,
            "nodePort": 30443,
            "tls": {
                "secretName": "devices-tls",
                "additionalCertificates": [
                    {"secretName": "more-tls", "serverNames": ["*.example.com"]}
                ],
                "clientCa": {"configMapName": "device-ca"},
                "clientCrl": {"configMapName": "device-ca"},
                "clientCertificates": "optional",
                "identityAsUsername": "cn",
                "ciphers": "ECDHE+AESGCM:ECDHE+CHACHA20",
            },
            "proxyProtocol": "optional",
            "trustedProxies": ["10.0.0.0/8"],
            "paths": ["/mqtt"],
            "allowedOrigins": ["https://*.example.com"],
            "maxConnections": 5000,
            "acceptRate": 200,
            "mountPoint": "fleet/",
            "maxQos": 1,
            "allowAnonymous": False,
        },
        {
            "name": "web",
            "protocol": "wss",
            "tls": {
                "issuer": {"name": "letsencrypt", "kind": "ClusterIssuer"},
                "dnsNames": ["mqtt.example.com"],
            },
            "passwords": {"secretName": "web-users"},
            "acl": {"rules": "topic read web/#\n"},
        },
        {"name": "inside", "protocol": "tcp", "allowAnonymous": True},
    ],
    "edge": {
        "autoscaling": {
            "minReplicas": 3,
            "maxReplicas": 12,
            "targetCpuPercent": 60,
            "targetConnections": 8000,
        },
        "resources": {"requests": {"cpu": 1, "memory": "512Mi"}, "limits": {"memory": "2Gi"}},
        "drain": {"rate": 250, "deadlineSeconds": 120, "reason": "use_another_server"},
        "disruptionBudget": {"minAvailable": "75%"},
        "nodeSelector": {"pool": "edge"},
        "tolerations": [{"key": "edge", "operator": "Exists"}],
        "affinity": {"podAntiAffinity": {"preferredDuringSchedulingIgnoredDuringExecution": []}},
        "topologySpreadConstraints": [],
        "priorityClassName": "high",
        "podTemplate": {
            "metadata": {"annotations": {"example.com/team": "iot"}},
            "spec": {
                "containers": [
                    {"name": "tidegate", "env": [{"name": "EXTRA", "value": "1"}]},
                    {"name": "sidecar", "image": "sidecar:1"},
                ]
            },
        },
        "shutdownTimeoutSeconds": 15,
    },
    "router": {"replicas": 3, "serviceAccountName": "routers-of-mine"},
    "redis": {
        "bundled": {
            "storage": {"size": "20Gi", "storageClassName": "fast", "onDelete": "delete"},
            "resources": {"limits": {"memory": "4Gi"}},
        },
        "durability": "always",
        "partitions": 128,
        "edgeLeaseSeconds": 8,
    },
    "auth": {"passwords": {"secretName": "users", "key": "file"}, "passwordThreads": 4},
    "acl": {"rules": "topic readwrite fleet/#\n"},
    "limits": {"maxPacketSizeBytes": 65536, "connectTimeoutSeconds": 5},
    "features": {"sysIntervalSeconds": 0},
    "link": {"heartbeatSeconds": 2},
    "telemetry": {
        "otlpEndpoint": "http://collector:4318",
        "traceRatio": 0.01,
        "serviceMonitor": {"labels": {"release": "prometheus"}},
    },
    "log": {"level": "debug", "format": "text"},
    "service": {
        "type": "LoadBalancer",
        "class": "example.com/lb",
        "annotations": {"example.com/lb": "internal"},
        "labels": {"team": "iot"},
        "loadBalancerSourceRanges": ["192.0.2.0/24"],
        "externalTrafficPolicy": "Local",
        "ipFamilyPolicy": "PreferDualStack",
    },
    "networkPolicy": {
        "clients": [{"ipBlock": {"cidr": "192.0.2.0/24"}}],
        "metrics": [{"namespaceSelector": {"matchLabels": {"name": "monitoring"}}}],
    },
}

SENTINEL: dict[str, Any] = {
    "listeners": [{"name": "mqtt", "protocol": "tcp"}],
    "auth": {"allowAnonymous": True},
    "edge": {"replicas": 3},
    "router": {"autoscaling": {"maxReplicas": 4}},
    "redis": {
        "external": {
            "url": "rediss+sentinel://sentinel-0:26379,sentinel-1:26379/mymaster/2",
            "username": "tidegate",
            "passwordSecret": {"name": "redis"},
            "sentinelUsername": "watcher",
            "sentinelPasswordSecret": {"name": "redis", "key": "sentinel"},
            "tls": {"ca": {"secretName": "redis-ca"}, "certificateSecretName": "redis-client"},
        },
        "durability": "replicated",
        "replicas": 2,
    },
    "networkPolicy": {"enabled": False},
}

#: A user of the console, with a hash of no password.
CONSOLE_USERS = b"alice:$argon2id$v=19$m=65536,t=3,p=4$c2FsdHNhbHQ$aGFzaA:admin\n"
#: A console that an Ingress publishes.
CONSOLE: dict[str, Any] = {
    "listeners": [{"name": "mqtt"}],
    "auth": {"allowAnonymous": True},
    "console": {
        "enabled": True,
        "replicas": 2,
        "users": {"secretName": "console-users"},
        "allowedHosts": ["console.example.com"],
        "sessionLifetimeSeconds": 3600,
        "resources": {"limits": {"memory": "256Mi"}},
        "networkPolicyPeers": [{"namespaceSelector": {"matchLabels": {"name": "ingress"}}}],
    },
}

SPECS = {
    "minimal": MINIMAL,
    "console": CONSOLE,
    "headline": HEADLINE,
    "everything": EVERYTHING,
    "sentinel": SENTINEL,
}


def spec_of(name: str = "minimal", **changes: Any) -> dict[str, Any]:
    """Return a copy of a spec, with sections replaced."""
    return copy.deepcopy(SPECS[name]) | changes


@cache
def pair(name: str = "broker.example", lifetime_days: int = 90) -> KeyPair:
    """Return a certificate with its key, of an authority of its own, made at ``NOW``."""
    policy = RotationPolicy(lifetime_days * DAY, DAY, 1000 * DAY, DAY)
    authority = new_authority("test", NOW, policy)
    return issue(authority, CertificateRequest(name, (name,), server=True), NOW, policy)


@cache
def revocation_list() -> bytes:
    """Return a list that revokes nothing: the same at every call."""
    with tempfile.TemporaryDirectory() as directory:
        return Authority(Path(directory)).revocation_list().read_bytes()


def contents_for(
    spec: MqttBrokerSpec, name: str = "demo"
) -> dict[tuple[Kind, str], dict[str, bytes]]:
    """Return Secrets and ConfigMaps with whatever a spec refers to."""
    found: dict[tuple[Kind, str], dict[str, bytes]] = {}
    for one in references(name, spec):
        data = found.setdefault(one.object_key, {})
        match one.file_format:
            case "pair":
                made = pair(one.name)
                data |= {"tls.crt": made.certificate, "tls.key": made.key}
            case "authorities":
                data[one.key] = pair("authority").certificate
            case "revocation lists":
                data[one.key] = revocation_list()
            case "acl":
                data[one.key] = b"topic read #\n"
            case "users of the console":
                data[one.key] = CONSOLE_USERS
            case "tokens of the console":
                data[one.key] = b"viewer something\n"
            case "text" | "passwords":
                data[one.key] = b"something\n"
    return found


def inputs_for(
    spec: Mapping[str, Any],
    *,
    name: str = "demo",
    contents: Contents | None = None,
    existing: LiveSecrets | None = None,
    settings: Settings | None = None,
    owned_secrets: OwnedSecrets | None = None,
    referenced_files: ReferencedFiles | None = None,
    now: datetime.datetime = NOW,
) -> Inputs:
    """Return everything that manifests are made of."""
    parsed = parse(name, spec)
    existing = existing or LiveSecrets()
    return Inputs(
        Broker(name, NAMESPACE, UID, parsed),
        settings or Settings("registry.example/tidegate:1", "tidegate-system", ALL_OPTIONAL),
        owned_secrets or renew_secrets(name, NAMESPACE, parsed, existing, now),
        referenced_files
        or collect(
            name,
            parsed,
            contents if contents is not None else contents_for(parsed, name),
            {"edge": existing.edge, "router": existing.router, "console": existing.console},
            now,
            has_cert_manager=True,
        ),
    )


def rendered(spec: Mapping[str, Any], **options: Any) -> list[Manifest]:
    """Return the manifests of a spec."""
    return render(inputs_for(spec, **options))


def pick(manifests: Iterable[Manifest], kind: str, name: str) -> Manifest:
    """Return the one object of a kind with a name."""
    (found,) = (one for one in manifests if one["kind"] == kind and one["metadata"]["name"] == name)
    return found


def secret_data(manifest: Mapping[str, Any]) -> dict[str, bytes]:
    """Return what is in a Secret."""
    return {key: base64.b64decode(value) for key, value in manifest["data"].items()}


# Snapshots


class _Dumper(yaml.SafeDumper):
    def ignore_aliases(self, data: Any) -> bool:
        return True


def _represent_text(dumper: yaml.SafeDumper, text: str) -> yaml.ScalarNode:
    style = "|" if "\n" in text else None
    return dumper.represent_scalar("tag:yaml.org,2002:str", text, style=style)


_Dumper.add_representer(str, _represent_text)


def readable(manifests: Sequence[Manifest]) -> str:
    """Return manifests as YAML, without what is different every time."""
    shown = copy.deepcopy(list(manifests))
    for one in shown:
        if one["kind"] == "Secret":
            one["data"] = dict.fromkeys(one["data"], "...")
        if "ca.crt" in one.get("data", {}):
            one["data"]["ca.crt"] = "..."
    return yaml.dump_all(shown, Dumper=_Dumper, sort_keys=False, width=100, allow_unicode=True)


def check_snapshot(file: Path, text: str) -> None:
    """Compare with a committed file; with UPDATE_SNAPSHOTS=1 write it instead."""
    if os.environ.get("UPDATE_SNAPSHOTS") == "1":
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text, encoding="utf-8")
    known = file.read_text(encoding="utf-8") if file.exists() else ""
    difference = "\n".join(
        difflib.unified_diff(
            known.splitlines(), text.splitlines(), "committed", "rendered", lineterm="", n=2
        )
    )
    assert not difference, f"{file.name} (UPDATE_SNAPSHOTS=1 writes it):\n{difference}"
