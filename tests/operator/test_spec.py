"""The spec: one schema with the runtime's configuration, and sentences that name the field."""

from __future__ import annotations

from typing import Annotated, Any, get_args, get_origin

import pytest

from support.brokers import SPECS, spec_of
from tidegate.runtime.config.model import (
    AuthConfig,
    Config,
    LinkConfig,
    ListenerConfig,
    Section,
    StoreConfig,
    TlsConfig,
)
from tidegate.runtime.config.spelling import camel
from tidegate_operator.spec.broker import AuthSpec, LinkSpec
from tidegate_operator.spec.fields import camel_text, count_or_percent
from tidegate_operator.spec.listeners import DEFAULT_PORTS, ListenerSpec, ListenerTls
from tidegate_operator.spec.problems import SpecError, parse
from tidegate_operator.spec.workloads import EdgeSpec, RedisSpec, RouterSpec

TLS = {"selfSigned": True}


def problems(**changes: Any) -> list[str]:
    """Return what is wrong with the smallest spec after these changes."""
    name = changes.pop("name", "demo")
    with pytest.raises(SpecError) as caught:
        parse(name, spec_of(**changes))
    return caught.value.problems


def listener(**fields: Any) -> list[dict[str, Any]]:
    return [{"name": "mqtt", **fields}]


# One schema


def bare(annotation: Any) -> Any:
    """Return an annotation without what ``Annotated`` adds to it and to its items."""
    if get_origin(annotation) is Annotated:
        return bare(get_args(annotation)[0])
    if get_origin(annotation) is list:
        return ("list", bare(get_args(annotation)[0]))
    return annotation


@pytest.mark.parametrize(
    ("own", "runtime", "different"),
    [
        (ListenerSpec, ListenerConfig, {"name", "protocol", "port", "tls"}),
        (ListenerTls, TlsConfig, {"client_ca", "client_crl"}),
        (AuthSpec, AuthConfig, set()),
        (LinkSpec, LinkConfig, set()),
        (RedisSpec, StoreConfig, set()),
        (EdgeSpec, Config, {"drain"}),
        (RouterSpec, Config, set()),
    ],
)
def test_fields_that_the_runtime_has_too_are_the_same(
    own: type[Section], runtime: type[Section], different: set[str]
) -> None:
    common = own.model_fields.keys() & runtime.model_fields.keys()
    assert common
    for name in common - different:
        mine, theirs = own.model_fields[name], runtime.model_fields[name]
        assert bare(mine.annotation) == bare(theirs.annotation), name
        assert mine.get_default(call_default_factory=True) == theirs.get_default(
            call_default_factory=True
        ), name
        assert mine.description == theirs.description, name
        bounds = {str(one) for one in theirs.metadata}
        assert bounds <= {str(one) for one in mine.metadata}, name


def test_default_ports_are_those_of_the_documentation() -> None:
    assert DEFAULT_PORTS == {"tcp": 1883, "tls": 8883, "ws": 8083, "wss": 8084, "auto": 8443}


@pytest.mark.parametrize(
    ("name", "wanted"),
    [
        ("deadline_s", "deadlineSeconds"),
        ("max_qos", "maxQos"),
        ("replicas", "replicas"),
        ("s", "s"),
        ("resume_ms", "resumeMilliseconds"),
        ("max_queued_bytes", "maxQueuedBytes"),
    ],
)
def test_names_are_spelled_as_kubernetes_spells_them(name: str, wanted: str) -> None:
    assert camel(name) == wanted


def test_names_in_sentences_are_spelled_so_too() -> None:
    assert camel_text("trace_ratio needs otlp_endpoint") == "traceRatio needs otlpEndpoint"
    assert camel_text("{client_id} is replaced") == "{client_id} is replaced"
    assert count_or_percent("25%") == "25%"
    assert count_or_percent("3") == 3


@pytest.mark.parametrize("name", SPECS)
def test_examples_are_valid(name: str) -> None:
    assert parse("demo", SPECS[name]).listeners


# Sentences


def test_every_problem_is_named_at_once() -> None:
    found = problems(
        name="Demo",
        listeners=[{"name": "mqtt", "port": 80, "protocl": "tcp"}],
        image=3,
        edge={"replicas": "many"},
    )
    assert found == [
        "metadata.name: expected lower-case letters, digits and inner hyphens, starting with a "
        "letter, because it is the name of a Service",
        "spec.listeners[0].port: expected a number of at least 1024, got 80",
        "spec.listeners[0].protocl: unknown key; did you mean protocol? (it may require a newer "
        "operator version)",
        "spec.edge.replicas: expected a whole number, got many",
        "spec.image: expected a string, got 3",
    ]


def test_names_that_are_too_long_for_what_is_made_of_them_are_refused() -> None:
    (found,) = problems(name="a" * 41)
    assert "41 characters, the maximum is 40" in found


def test_many_problems_are_cut_short() -> None:
    found = problems(image=3, listeners=[{"name": f"l{n}", "port": 1} for n in range(30)])
    assert len(found) == 21
    assert found[-1] == "and 11 more problems"


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"listeners": []}, "spec.listeners: expected at least 1 entries, got 0"),
        ({"listeners": {}}, "spec.listeners: expected a list, got a section"),
        ({"listeners": None}, "spec.listeners: expected a list, got nothing"),
        ({"listeners": [{}]}, "spec.listeners[0].name: is missing"),
        (
            {"listeners": [{"name": "mqtt", "protocol": "udp"}]},
            "spec.listeners[0].protocol: expected one of tcp, tls, ws, wss, auto, got udp",
        ),
        (
            {"listeners": listener(protocol="tls")},
            "spec.listeners[0]: protocol tls requires tls",
        ),
        (
            {"listeners": listener(protocol="ws", tls=TLS)},
            "spec.listeners[0]: tls requires protocol tls, wss or auto, not ws",
        ),
        (
            {"listeners": listener(protocol="tls", tls={})},
            "spec.listeners[0].tls: exactly one of secretName, issuer and selfSigned is required",
        ),
        (
            {"listeners": listener(protocol="tls", tls={"issuer": {"name": "le"}})},
            "spec.listeners[0].tls: issuer requires dnsNames or ipAddresses",
        ),
        (
            {"listeners": listener(protocol="tls", tls={**TLS, "clientCertificates": "required"})},
            "spec.listeners[0].tls: clientCertificates requires clientCa",
        ),
        (
            {"listeners": listener(protocol="tls", tls={**TLS, "identityAsUsername": "cn"})},
            "spec.listeners[0].tls: identityAsUsername requires clientCertificates",
        ),
        (
            {"listeners": listener(protocol="tls", tls={**TLS, "clientCrl": {"secretName": "s"}})},
            "spec.listeners[0].tls: clientCrl requires clientCertificates",
        ),
        (
            {
                "listeners": listener(
                    protocol="tls", tls={**TLS, "ciphers": "TLS_AES_128_GCM_SHA256"}
                )
            },
            "spec.listeners[0].tls.ciphers: TLS_AES_128_GCM_SHA256 is a suite of TLS 1.3",
        ),
        (
            {
                "listeners": listener(
                    protocol="tls", tls={**TLS, "ciphers": "AES", "minimumVersion": "1.3"}
                )
            },
            "spec.listeners[0].tls: ciphers requires minimumVersion 1.2",
        ),
        (
            {"listeners": listener(protocol="tls", tls={**TLS, "ipAddresses": ["fe80::1%0"]})},
            "spec.listeners[0].tls.ipAddresses[0]: 'fe80::1%0' has a zone, which is not allowed "
            "in certificates",
        ),
        (
            {"listeners": listener(protocol="tls", tls={**TLS, "ipAddresses": ["x"]})},
            "spec.listeners[0].tls.ipAddresses[0]: 'x' does not appear to be an IPv4 or IPv6 "
            "address",
        ),
        (
            {"listeners": listener(protocol="tls", tls={**TLS, "clientCa": {"key": "ca.crt"}})},
            "spec.listeners[0].tls.clientCa: exactly one of secretName and "
            "configMapName is required",
        ),
        (
            {"listeners": listener(port=18083)},
            "spec.listeners[0].port: 18083 is reserved for health, metrics and the admin API",
        ),
        (
            {"listeners": listener(proxyProtocol="required")},
            "spec.listeners[0]: proxyProtocol requires trustedProxies",
        ),
        (
            {"listeners": listener(trustedProxies=["nowhere"])},
            "spec.listeners[0].trustedProxies: 'nowhere' is not an IP network",
        ),
        (
            {"listeners": listener(mountPoint="a/#")},
            "spec.listeners[0].mountPoint: wildcards are not allowed in a mount point",
        ),
        (
            {"listeners": [{"name": "a"}, {"name": "a", "port": 1884}]},
            "spec: two listeners are called a",
        ),
        ({"listeners": [{"name": "a"}, {"name": "b"}]}, "spec: two listeners have the port 1883"),
        (
            {
                "listeners": [
                    {"name": "a", "protocol": "auto"},
                    {"name": "b", "protocol": "ws", "servicePort": 443},
                ]
            },
            "spec: two listeners have the servicePort 443",
        ),
        (
            {"edge": {"autoscaling": {"minReplicas": 3, "maxReplicas": 2}}},
            "spec.edge.autoscaling: minReplicas must not be above maxReplicas",
        ),
        (
            {
                "edge": {
                    "autoscaling": {"maxReplicas": 3},
                    "resources": {"limits": {"memory": "1Gi"}},
                }
            },
            "spec.edge: autoscaling requires resources.requests.cpu",
        ),
        (
            {"edge": {"drain": {"delaySeconds": 60}}},
            "spec.edge: drain.delaySeconds must be below drain.deadlineSeconds",
        ),
        (
            {"edge": {"disruptionBudget": {}}},
            "spec.edge.disruptionBudget: exactly one of minAvailable and maxUnavailable is "
            "required",
        ),
        (
            {"router": {"podTemplate": {"kind": "Pod"}}},
            "spec.router.podTemplate: expected metadata and spec, not kind",
        ),
        (
            {"router": {"podTemplate": {"spec": []}}},
            "spec.router.podTemplate: spec must be a section (keys and values)",
        ),
        (
            {"redis": {"bundled": {}, "external": {"url": "redis://r"}}},
            "spec.redis: bundled and external are mutually exclusive",
        ),
        (
            {"redis": {"durability": "replicated"}},
            "spec.redis: durability replicated requires external, or bundled.replicas 3",
        ),
        (
            {"redis": {"bundled": {"replicas": 3}, "replicas": 3}},
            "spec.redis: replicas must not be above 2: the bundled store has two replicas",
        ),
        ({"redis": {"replicas": 2}}, "spec.redis: replicas requires durability replicated"),
        (
            {"redis": {"external": {"url": "redis://user:secret@r"}}},
            "spec.redis.external.url: a password is not allowed in the url",
        ),
        (
            {"redis": {"external": {"url": "unix:///run/redis.sock"}}},
            "spec.redis.external.url: Unix sockets are not supported in Kubernetes: expected "
            "redis:// or rediss://",
        ),
        (
            {"redis": {"external": {"url": "redis://r", "username": "a"}}},
            "spec.redis.external: username requires passwordSecret",
        ),
        (
            {"redis": {"external": {"url": "redis://r", "sentinelUsername": "a"}}},
            "spec.redis.external: sentinelUsername requires sentinelPasswordSecret",
        ),
        (
            {"redis": {"external": {"url": "redis://r", "sentinelPasswordSecret": {"name": "s"}}}},
            "spec.redis.external: sentinelPasswordSecret requires a url with +sentinel",
        ),
        (
            {"redis": {"external": {"url": "redis://r", "tls": {}}}},
            "spec.redis.external: tls requires a url with scheme rediss",
        ),
        ({"acl": {}}, "spec.acl: exactly one of rules and source is required"),
        ({"telemetry": {"traceRatio": 0.5}}, "spec.telemetry: traceRatio needs otlpEndpoint"),
        (
            {"limits": {"receiveMaximum": 70000}},
            "spec.limits.receiveMaximum: expected a number of at most 65535, got 70000",
        ),
        (
            {"limits": {"connectTimeoutSeconds": 0}},
            "spec.limits.connectTimeoutSeconds: expected a number above 0, got 0",
        ),
        (
            {"limits": {"max_qos": 1}},
            "spec.limits.max_qos: unknown key (it may require a newer operator version)",
        ),
        ({"service": {"class": "x"}}, "spec.service: class requires type LoadBalancer"),
        (
            {"service": {"type": "NodePort", "loadBalancerSourceRanges": ["10.0.0.0/8"]}},
            "spec.service: loadBalancerSourceRanges requires type LoadBalancer",
        ),
        (
            {"service": {"externalTrafficPolicy": "Local"}},
            "spec.service: externalTrafficPolicy requires type LoadBalancer or NodePort",
        ),
        (
            {"service": {"type": "LoadBalancer", "loadBalancerSourceRanges": ["x"]}},
            "spec.service.loadBalancerSourceRanges: 'x' is not an IP network",
        ),
        (
            {"certificates": {"validityDays": 10}},
            "spec.certificates: renewBeforeDays must be below validityDays",
        ),
        (
            {"certificates": {"authorityValidityDays": 90}},
            "spec.certificates: validityDays must be below authorityValidityDays",
        ),
        (
            {"edge": {"resources": {"requests": {"cpu": "much"}}}},
            "spec.edge.resources.requests.cpu: expected a quantity such as 500m or 8Gi, got much",
        ),
        (
            {"image": "i" * 501},
            "spec.image: expected at most 500 characters, got " + "i" * 60 + "…",
        ),
        (
            {"imagePullSecrets": [{"name": ""}]},
            "spec.imagePullSecrets[0].name: expected a non-empty string",
        ),
        (
            {"listeners": [{"name": f"l{n}", "port": 2000 + n} for n in range(33)]},
            "spec.listeners: expected at most 32 entries, got 33",
        ),
        ({"paused": "maybe"}, "spec.paused: expected true or false, got maybe"),
        ({"edge": []}, "spec.edge: expected a section (keys and values), got a list"),
    ],
)
def test_what_is_wrong_is_said_in_a_sentence(changes: dict[str, Any], sentence: str) -> None:
    found = problems(**changes)
    assert any(one.startswith(sentence) for one in found), found


def test_a_password_in_a_url_is_not_repeated() -> None:
    found = problems(redis={"external": {"url": "redis://user:hunter2@r"}})
    assert "hunter2" not in " ".join(found)


@pytest.mark.parametrize(
    "changes",
    [
        {"edge": {"replicas": 0}},
        {"redis": {"external": {"url": "redis+cluster://a:1,b:2"}}},
        {"redis": {"durability": "always"}},
        {"listeners": listener(protocol="auto", tls=TLS, servicePort=8883)},
        {"listeners": listener(protocol="auto")},
        {"edge": {"resources": {"requests": {"cpu": 0.5, "memory": "1Gi"}}}},
        {
            "router": {
                "autoscaling": {"maxReplicas": 3},
                "resources": {"limits": {"cpu": "1"}},
            }
        },
        {"service": {"type": "NodePort", "externalTrafficPolicy": "Cluster"}},
    ],
)
def test_what_is_possible_is_accepted(changes: dict[str, Any]) -> None:
    parse("demo", spec_of(**changes))


def test_ports_follow_from_the_protocol() -> None:
    spec = parse(
        "demo",
        spec_of(
            listeners=[
                {"name": "a", "protocol": "auto"},
                {"name": "b", "protocol": "ws", "servicePort": 80},
                {"name": "c", "port": 2883},
            ]
        ),
    )
    assert [(one.pod_port, one.exposed_port) for one in spec.listeners] == [
        (8443, 443),
        (8083, 80),
        (2883, 2883),
    ]
