"""What counts only from the next start on, and what a running process takes up."""

from __future__ import annotations

from pathlib import Path
from typing import Any, get_args

import pytest

from tidegate.runtime.config.config_file import Role
from tidegate.runtime.config.model import Config
from tidegate.runtime.config.reloadable import NEEDS_RESTART, restart_needed, restart_part

ROLES: tuple[Role, ...] = get_args(Role)

WHOLE: dict[str, Any] = {
    "listeners": [{"port": 1883}],
    "auth": {"acl_file": "/etc/acl"},
    "limits": {"max_connections": 5},
    "features": {"sys_interval_s": 5},
    "drain": {"rate": 10},
    "log": {"level": "debug", "format": "json"},
    "shutdown_timeout_s": 5,
    "store": {"url": "redis://h:1", "edge_lease_s": 5},
    "link": {"routers": ["router:7000"], "listen": "0.0.0.0:7000", "heartbeat_s": 2},
    "admin": {"port": 1},
    "telemetry": {"otlp_endpoint": "http://h:4318"},
    "cluster": {"edges": 2},
    "name": "x",
}


@pytest.mark.parametrize(
    ("role", "expected"),
    [
        (
            "edge",
            {
                "store": {"edge_lease_s": 5},
                "link": {"routers": ["router:7000"], "heartbeat_s": 2},
                "admin": {"port": 1},
                "telemetry": {"otlp_endpoint": "http://h:4318"},
                "name": "x",
            },
        ),
        (
            "router",
            {
                "store": {"url": "redis://h:1", "edge_lease_s": 5},
                "link": {"listen": "0.0.0.0:7000", "heartbeat_s": 2},
                "admin": {"port": 1},
                "telemetry": {"otlp_endpoint": "http://h:4318"},
                "name": "x",
            },
        ),
        (
            "serve",
            {key: WHOLE[key] for key in ("store", "link", "admin", "telemetry", "cluster", "name")},
        ),
    ],
)
def test_the_part_for_the_next_start_lacks_what_is_live_or_not_used(
    role: Role, expected: dict[str, Any]
) -> None:
    assert restart_part(WHOLE, role) == expected


@pytest.mark.parametrize("role", ROLES)
def test_a_change_of_anything_live_leaves_the_part_as_it_is(role: Role) -> None:
    changed = WHOLE | {
        "listeners": [{"port": 1884}, {"port": 1885}],
        "limits": {},
        "auth": {"allow_anonymous": True},
        "drain": {"rate": 1},
        "log": {"level": "info"},
    }
    assert restart_part(changed, role) == restart_part(WHOLE, role)


@pytest.mark.parametrize("role", ROLES)
def test_sections_of_which_nothing_is_left_do_not_count(role: Role) -> None:
    assert restart_part({"log": {"level": "info"}, "link": {}, "limits": {}}, role) == {}
    assert restart_part({}, role) == {}


@pytest.mark.parametrize("role", ROLES)
def test_what_is_not_known_needs_a_restart(role: Role) -> None:
    assert restart_part({"new": {"key": 1}, "other": None}, role) == {
        "new": {"key": 1},
        "other": None,
    }


def test_the_input_is_neither_changed_nor_shared_in_its_sections() -> None:
    before = {"link": {"routers": ["a:1"], "listen": "b:1"}}
    part = restart_part(before, "edge")
    part["link"]["routers"] = []
    assert before == {"link": {"routers": ["a:1"], "listen": "b:1"}}


@pytest.mark.parametrize("role", ROLES)
def test_two_equal_configurations_need_no_restart(role: Role) -> None:
    one = Config.model_validate({"admin": {"port": 18083}})
    assert restart_needed(one, Config(), role) == []


def test_the_keys_that_need_a_restart_are_named_with_dots() -> None:
    one = Config.model_validate({"name": "a", "link": {"routers": ["a:1"]}})
    other = Config.model_validate(
        {
            "name": "b",
            "link": {"routers": ["a:1", "b:1"], "tls": {"server_name": "x"}, "stall_s": 2},
            "admin": {"token_file": Path("/token")},
            "limits": {"max_connections": 1},
            "store": {"operation_timeout_s": 1},
        }
    )
    assert restart_needed(one, other, "edge") == [
        "admin.token_file",
        "link.routers",
        "link.tls.server_name",
        "name",
    ]
    assert restart_needed(one, other, "router") == [
        "admin.token_file",
        "link.stall_s",
        "link.tls.server_name",
        "name",
        "store.operation_timeout_s",
    ]


@pytest.mark.parametrize("role", ROLES)
def test_every_rule_names_a_key_that_exists(role: Role) -> None:

    for name in NEEDS_RESTART[role]:
        value: Any = Config().model_dump()
        for part in name.split("."):
            assert part in value, name
            value = value[part]
