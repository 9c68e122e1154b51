"""``store.url`` taken apart, and what of the configuration's store section belongs together."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError

from tidegate.runtime.config.model import StoreConfig
from tidegate.runtime.config.store_url import StoreKind, StoreUrl, StoreUrlError, parse_store_url


@pytest.mark.parametrize(
    ("url", "expected"),
    [
        ("redis://h", StoreUrl(StoreKind.SINGLE, (("h", 6379),))),
        ("redis://h:1/2", StoreUrl(StoreKind.SINGLE, (("h", 1),), database=2)),
        ("redis://h:1/", StoreUrl(StoreKind.SINGLE, (("h", 1),))),
        (
            "rediss://u:p%40ss@h:6380",
            StoreUrl(StoreKind.SINGLE, (("h", 6380),), tls=True, username="u", password="p@ss"),
        ),
        ("redis://:p@[::1]:7", StoreUrl(StoreKind.SINGLE, (("::1", 7),), password="p")),
        ("redis://[::1]", StoreUrl(StoreKind.SINGLE, (("::1", 6379),))),
        (
            "unix:///a%20b?db=3",
            StoreUrl(StoreKind.SINGLE, (("/a b", 0),), unix=True, database=3),
        ),
        (
            "unix://u:p@/s",
            StoreUrl(StoreKind.SINGLE, (("/s", 0),), unix=True, username="u", password="p"),
        ),
        (
            "redis+sentinel://a:1,b,[::1]:3/tide/2",
            StoreUrl(
                StoreKind.SENTINEL,
                (("a", 1), ("b", 26379), ("::1", 3)),
                database=2,
                master="tide",
            ),
        ),
        (
            "rediss+cluster://u:p@a,b:2",
            StoreUrl(
                StoreKind.CLUSTER, (("a", 6379), ("b", 2)), tls=True, username="u", password="p"
            ),
        ),
    ],
)
def test_a_url_says_which_servers_and_how(url: str, expected: StoreUrl) -> None:
    assert parse_store_url(url) == expected


@pytest.mark.parametrize(
    ("url", "reason"),
    [
        ("http://h", "expected redis://"),
        ("h:6379", "expected redis://"),
        ("redis+other://h", "expected redis://"),
        ("unix+cluster:///s", "expected redis://"),
        ("redis://[::1", "expected redis://"),
        ("redis://", "missing host"),
        ("redis://a,,b", "missing host"),
        ("redis://::1", "in brackets"),
        ("redis://h:x", "port must be a number"),
        ("redis://h:0", "port must be a number"),
        ("redis://h:65536", "port must be a number"),
        ("redis://h/x", "database must be a number"),
        ("redis://h/1/2", "database must be a number"),
        ("redis://a,b", "redis\\+sentinel:// or redis\\+cluster://"),
        ("redis://u@h", "requires a password"),
        ("redis://h?db=1", "not supported in a store URL"),
        ("redis+sentinel://a", "name of the master"),
        ("redis+sentinel://a/tide/x", "database must be a number"),
        ("redis+cluster://a/3", "database 0 only"),
        ("unix://", "absolute path"),
        ("unix://host/s", "absolute path"),
        ("unix:///s?timeout=1", "only \\?db=NUMBER"),
        ("unix:///s?db=x", "database must be a number"),
    ],
)
def test_a_url_that_cannot_be_used_says_why(url: str, reason: str) -> None:
    with pytest.raises(StoreUrlError, match=reason):
        parse_store_url(url)


@pytest.mark.parametrize(
    "url", ["redis://u:hush@h:x", "redis+cluster://u:hush@h/3", "foo://:hush@h"]
)
def test_a_password_is_never_repeated(url: str) -> None:
    with pytest.raises(ValidationError) as caught:
        StoreConfig(url=url)
    for error in caught.value.errors():
        assert "hush" not in str(error["ctx"])
    good = "redis://u:hush@h"
    assert "hush" not in repr(StoreConfig(url=good))
    assert "hush" not in repr(parse_store_url(good))


@pytest.mark.parametrize(
    ("settings", "reason"),
    [
        ({"url": "nothing"}, "expected redis://"),
        ({"password_file": "p"}, "password_file needs url"),
        ({"tls_ca": "p"}, "tls_ca needs url"),
        ({"sentinel_password_file": "p"}, "sentinel_password_file needs url"),
        ({"durability": "replicated"}, "durability replicated needs url"),
        ({"url": "redis://h:1", "max_memory_bytes": 1}, "max_memory_bytes needs no url"),
        ({"url": "redis://h", "username": "u"}, "username needs password_file"),
        (
            {"url": "redis+sentinel://h/m", "sentinel_username": "u"},
            "sentinel_username needs sentinel_password_file",
        ),
        ({"url": "redis://:p@h", "password_file": "p"}, "mutually exclusive"),
        ({"url": "redis://h", "tls_ca": "p"}, "tls_ca needs a url that begins with rediss"),
        (
            {"url": "rediss://h", "tls_certificate": "p"},
            "tls_certificate and tls_key must be set together",
        ),
        (
            {"url": "redis://h", "sentinel_password_file": "p"},
            "sentinel_password_file needs a url with \\+sentinel",
        ),
        ({"url": "redis://h", "replicas": 2}, "replicas needs durability replicated"),
        (
            {"url": "redis://h", "replication_timeout_s": 2},
            "replication_timeout_s needs durability replicated",
        ),
    ],
)
def test_keys_that_do_not_belong_together_are_named(settings: dict[str, Any], reason: str) -> None:
    with pytest.raises(ValidationError, match=reason):
        StoreConfig(**settings)


def test_keys_that_belong_together_are_taken() -> None:
    config = StoreConfig(
        url="rediss+sentinel://a,b/tide",
        username="u",
        password_file=Path("p"),
        tls_ca=Path("ca"),
        tls_certificate=Path("c"),
        tls_key=Path("k"),
        sentinel_username="w",
        sentinel_password_file=Path("q"),
        durability="replicated",
        replicas=2,
        replication_timeout_s=0.5,
    )
    assert config.replicas == 2
