"""Specs that are refused before the operator sees them: what is changed, and the server's sentence.

Used against the CRD's rules here in Python, and against a real API server. ``schema`` stands for
what a schema refuses, in words of the server's own.
"""

from __future__ import annotations

from typing import Any

Schema = dict[str, Any]

TLS: Schema = {"selfSigned": True}
#: Specs with this one are refused for a broker that is called demo.
RESERVED_SERVICE = "a service has the name of another Service of the broker"
_CLAIM: Schema = {"persistentVolumeClaim": {"claimName": "backups"}}
_GATEWAY: Schema = {"name": "public"}


def _gateway(**more: object) -> Schema:
    return {"parentRefs": [_GATEWAY], **more}


BAD: list[tuple[Schema, str]] = [
    ({"listeners": []}, "schema"),
    ({"listeners": [{"name": "a", "port": 80}]}, "schema"),
    ({"listeners": [{"name": "a", "protocol": "tls"}]}, "protocols tls and wss require tls"),
    (
        {"listeners": [{"name": "a", "protocol": "tcp", "tls": TLS}]},
        "tls requires protocol tls, wss or auto",
    ),
    (
        {"listeners": [{"name": "a", "protocol": "tls", "tls": {"secretName": "s", **TLS}}]},
        "exactly one of secretName, issuer and selfSigned is required",
    ),
    (
        {"listeners": [{"name": "a", "protocol": "tls", "tls": {}}]},
        "exactly one of secretName, issuer and selfSigned is required",
    ),
    (
        {"listeners": [{"name": "a", "protocol": "tls", "tls": {"issuer": {"name": "i"}}}]},
        "issuer requires dnsNames or ipAddresses",
    ),
    (
        {
            "listeners": [
                {"name": "a", "protocol": "tls", "tls": {**TLS, "clientCertificates": "required"}}
            ]
        },
        "clientCertificates requires clientCa",
    ),
    (
        {
            "listeners": [
                {"name": "a", "protocol": "tls", "tls": {**TLS, "identityAsUsername": "cn"}}
            ]
        },
        "identityAsUsername requires clientCertificates",
    ),
    (
        {
            "listeners": [
                {"name": "a", "protocol": "tls", "tls": {**TLS, "clientCrl": {"secretName": "s"}}}
            ]
        },
        "clientCrl requires clientCertificates",
    ),
    (
        {
            "listeners": [
                {
                    "name": "a",
                    "protocol": "tls",
                    "tls": {**TLS, "ciphers": "ECDHE+AESGCM", "minimumVersion": "1.3"},
                }
            ]
        },
        "ciphers requires minimumVersion 1.2",
    ),
    (
        {"listeners": [{"name": "a", "protocol": "tls", "tls": {**TLS, "clientCa": {}}}]},
        "exactly one of secretName and configMapName is required",
    ),
    (
        {"listeners": [{"name": "a", "proxyProtocol": "required"}]},
        "proxyProtocol requires trustedProxies",
    ),
    (
        {"listeners": [{"name": "a", "port": 18083}]},
        "18083 is reserved for health, metrics and the admin API",
    ),
    ({"edge": {"drain": {"delaySeconds": 60}}}, "delaySeconds must be below deadlineSeconds"),
    ({"edge": {"drain": {"deadlineSeconds": 5}}}, "delaySeconds must be below deadlineSeconds"),
    (
        {
            "router": {
                "autoscaling": {"maxReplicas": 3},
                "resources": {"requests": {"memory": "1Gi"}, "limits": {"memory": "1Gi"}},
            }
        },
        "autoscaling requires resources.requests.cpu",
    ),
    ({"listeners": [{"name": "a"}, {"name": "b"}]}, "two listeners have the same port"),
    (
        {"link": {"heartbeatSeconds": 3}},
        "timeoutSeconds must be at least twice heartbeatSeconds",
    ),
    (
        {"listeners": [{"name": "a", "protocol": "auto"}, {"name": "b", "servicePort": 443}]},
        "two listeners have the same servicePort",
    ),
    (
        {
            "listeners": [
                {"name": "a", "port": 2000, "servicePort": 443, "service": {"name": "public"}},
                {"name": "b", "port": 3000, "servicePort": 443, "service": {"name": "public"}},
            ]
        },
        "two listeners have the same servicePort",
    ),
    (
        {
            "listeners": [
                {"name": "a", "port": 2000, "service": {"name": "public", "type": "LoadBalancer"}},
                {"name": "b", "port": 3000, "service": {"name": "public"}},
            ]
        },
        "two listeners have the same service.name and different service.type",
    ),
    *(
        (
            {"listeners": [{"name": "a", "service": service}]},
            "externalTrafficPolicy requires type LoadBalancer or NodePort",
        )
        for service in (
            {"externalTrafficPolicy": "Local"},
            {"type": "None", "externalTrafficPolicy": "Local"},
        )
    ),
    (
        {"listeners": [{"name": "a", "service": {"loadBalancerSourceRanges": ["10.0.0.0/8"]}}]},
        "loadBalancerSourceRanges requires type LoadBalancer",
    ),
    ({"listeners": [{"name": "a", "service": {"name": "Public"}}]}, "schema"),
    *(
        ({"listeners": [{"name": "a", "gateway": {"parentRefs": [_GATEWAY]}, **listener}]}, message)
        for listener, message in (
            (
                {"protocol": "ws", "service": {"type": "None"}},
                "gateway requires a Service: service.type must not be None",
            ),
            (
                {"protocol": "wss", "tls": TLS, "gateway": _gateway(kind="HTTPRoute")},
                "an HTTPRoute requires protocol ws, or auto without tls",
            ),
            (
                {"protocol": "tls", "tls": TLS, "gateway": _gateway(kind="TLSRoute")},
                "a TLSRoute requires gateway.hostnames",
            ),
            (
                {"protocol": "tcp", "gateway": _gateway(kind="TCPRoute", hostnames=["a.example"])},
                "a TCPRoute has no hostnames: it cannot tell them apart",
            ),
        )
    ),
    *(
        ({"console": {"enabled": True, **console}}, message)
        for console, message in (
            ({"tls": {}}, "exactly one of secretName and issuer is required"),
            (
                {"tls": {"secretName": "s", "issuer": {"name": "i"}, "dnsNames": ["a.example"]}},
                "exactly one of secretName and issuer is required",
            ),
            ({"tls": {"issuer": {"name": "i"}}}, "issuer requires dnsNames or ipAddresses"),
            (
                {"tls": {"secretName": "s"}, "gateway": _gateway(kind="HTTPRoute")},
                "an HTTPRoute to the console requires that it has no tls",
            ),
            ({"gateway": _gateway(kind="TLSRoute")}, "a TLSRoute requires gateway.hostnames"),
            (
                {"gateway": _gateway(kind="TCPRoute", hostnames=["a.example"])},
                "a TCPRoute has no hostnames: it cannot tell them apart",
            ),
        )
    ),
    *(
        ({"listeners": [{"name": name, "service": service}]}, RESERVED_SERVICE)
        for name, service in (
            ("a", {"name": "demo"}),
            ("a", {"name": "demo-metrics"}),
            ("routers", {}),
            ("redis", {"type": "NodePort"}),
        )
    ),
    (
        {"edge": {"autoscaling": {"minReplicas": 3, "maxReplicas": 2}}},
        "minReplicas must not be above maxReplicas",
    ),
    (
        {"edge": {"disruptionBudget": {"minAvailable": 1, "maxUnavailable": 1}}},
        "exactly one of minAvailable and maxUnavailable is required",
    ),
    (
        {"redis": {"bundled": {}, "external": {"url": "redis://r"}}},
        "bundled and external are mutually exclusive",
    ),
    (
        {"redis": {"durability": "replicated"}},
        "durability replicated requires external, or bundled.replicas 3",
    ),
    (
        {"redis": {"bundled": {"replicas": 3}, "replicas": 3}},
        "replicas must not be above 2: the bundled store has two replicas",
    ),
    ({"redis": {"bundled": {"replicas": 2}}}, "schema"),
    (
        {"redis": {"replicas": 2}},
        "replicas, replicasConfirm and replicationTimeoutSeconds require durability replicated",
    ),
    ({"acl": {}}, "exactly one of rules and source is required"),
    ({"service": {"class": "x"}}, "class requires type LoadBalancer"),
    (
        {"service": {"type": "NodePort", "loadBalancerSourceRanges": ["10.0.0.0/8"]}},
        "loadBalancerSourceRanges requires type LoadBalancer",
    ),
    (
        {"service": {"externalTrafficPolicy": "Local"}},
        "externalTrafficPolicy requires type LoadBalancer or NodePort",
    ),
    ({"certificates": {"validityDays": 10}}, "renewBeforeDays must be below validityDays"),
    (
        {"certificates": {"authorityValidityDays": 90}},
        "validityDays must be below authorityValidityDays",
    ),
    (
        {"backup": {"schedule": {"cron": "@daily", "target": {}}}},
        "exactly one of persistentVolumeClaim and s3 is required",
    ),
    ({"restoreFrom": {}}, "exactly one of backup and target is required"),
    ({"restoreFrom": {"backup": {"name": "a"}, "name": "b"}}, "name requires target"),
    ({"backup": {"schedule": {"cron": "at noon", "target": _CLAIM}}}, "schema"),
    ({"limits": {"connectTimeoutSeconds": 0}}, "schema"),
    ({"edge": {"resources": {"requests": {"cpu": "much"}}}}, "schema"),
    ({"unknown": 1}, "schema"),
]
