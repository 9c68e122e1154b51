"""Ports that tests are given: each to one of them, and none that the system chooses."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from support import ports, processes

TAKE_50 = "from support.ports import free_port; print(*(free_port() for _ in range(50)))"


def test_processes_at_the_same_time_are_given_different_ports() -> None:
    command = [sys.executable, "-c", TAKE_50]
    environment = os.environ | {"PYTHONPATH": str(Path(ports.__file__).resolve().parents[1])}
    takers = [
        processes.start(command, env=environment, stdout=subprocess.PIPE, text=True)
        for _ in range(4)
    ]
    taken = [port for taker in takers for port in taker.communicate()[0].split()]
    assert len(taken) == len(set(taken)) == 200


def test_the_system_chooses_no_port_that_was_given() -> None:
    chosen_from = int(Path("/proc/sys/net/ipv4/ip_local_port_range").read_text().split()[0])
    assert ports.free_port() < chosen_from


def test_a_port_in_use_is_not_given(monkeypatch: pytest.MonkeyPatch) -> None:
    in_use: list[int] = []

    def is_free(port: int) -> bool:
        in_use.append(port)
        return len(in_use) > 2

    monkeypatch.setattr(ports, "_is_free", is_free)
    assert ports.free_port() == in_use[2]


def test_a_system_that_chooses_nearly_every_port_is_asked(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ports, "_chosen_from", lambda: 1024)
    assert ports.free_port() >= 1024


def test_listeners_keep_what_they_are_given() -> None:
    listeners: list[dict[str, Any]] = [
        {"port": 0},
        {"port": 4},
        {"protocol": "unix", "port": 0},
        {"protocol": "ws"},
    ]
    ports.give_ports(listeners)
    given = listeners[0]["port"]
    assert given != 0
    assert listeners[1:] == [{"port": 4}, {"protocol": "unix", "port": 0}, {"protocol": "ws"}]
    ports.give_ports(listeners)
    assert listeners[0]["port"] == given
