"""What was read of one broker from the cluster. Pure.

Made by ``reconciler``; each later step takes it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime

from tidegate_operator import live_state
from tidegate_operator.backups import restore
from tidegate_operator.live_objects import LiveObjects
from tidegate_operator.names import BrokerKey
from tidegate_operator.render import Broker, Manifest, Owner
from tidegate_operator.render.broker_config import runtime_problems
from tidegate_operator.replicas.servers import StoreServer
from tidegate_operator.secrets.references import Contents
from tidegate_operator.spec.broker import MqttBrokerSpec
from tidegate_operator.spec.problems import SpecError, parse
from tidegate_operator.spec.salvage import usable_part


@dataclass(slots=True, frozen=True)
class Observed:
    """What was read from the cluster. ``live`` is kept up to date while objects are written."""

    body: Manifest
    owner: Owner
    #: None if the spec is invalid; ``spec_problems`` says why.
    spec: MqttBrokerSpec | None
    #: The spec, or what is usable of an invalid one: for Secrets and certificates only.
    usable: MqttBrokerSpec
    spec_problems: Sequence[str]
    live: LiveObjects
    pods: Sequence[live_state.Pod]
    now: datetime
    #: What the spec refers to, and the optional kinds of the cluster.
    contents: Contents = field(default_factory=dict)
    optional_kinds: Mapping[str, str] = field(default_factory=dict)
    #: Reports of a replicated store's servers, by the name of the pod; None for other stores.
    servers: Mapping[str, StoreServer] | None = None
    #: The restore that the broker begins with; None without one.
    restore: restore.RestoreState | None = None

    @property
    def key(self) -> BrokerKey:
        return self.owner.namespace, self.owner.name

    @property
    def is_paused(self) -> bool:
        return self.usable.paused

    @property
    def is_created(self) -> bool:
        """Whether there are workloads of this broker, which need their Secrets."""
        return self.live.owned_by(self.owner.uid).has_workloads


def parse_spec(
    owner: Owner, body: Manifest, *, is_external: bool
) -> tuple[MqttBrokerSpec | None, MqttBrokerSpec, list[str]]:
    """Return the spec, None if it is invalid; its usable part; and what is wrong.

    ``is_external``: the broker runs without a store of its own.
    """
    raw = body.get("spec") or {}
    try:
        spec = parse(owner.name, raw)
    except SpecError as error:
        return None, usable_part(raw, is_external=is_external), error.problems
    problems = runtime_problems(Broker(owner.name, owner.namespace, owner.uid, spec))
    return (None, spec, problems) if problems else (spec, spec, [])
