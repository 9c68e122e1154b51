"""The live objects of one broker, by reference, and lookups by their meaning. Pure.

``reconcile`` reads them from the cluster, ``kube.writer`` keeps them up to date while it writes.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from tidegate_operator import live_state, names
from tidegate_operator.names import Component
from tidegate_operator.plan import ObjectRef, belongs_to
from tidegate_operator.render.inputs import Manifest, decoded
from tidegate_operator.secrets.owned_secrets import LiveSecrets


@dataclass(slots=True, frozen=True)
class LiveObjects:
    """See the module's docstring. ``name`` is the broker's."""

    name: str
    objects: dict[ObjectRef, Manifest]

    def owned_by(self, uid: str) -> LiveObjects:
        """Return the objects that the broker with this uid owns."""
        owned = {
            ref: manifest for ref, manifest in self.objects.items() if belongs_to(manifest, uid)
        }
        return LiveObjects(self.name, owned)

    def deployment(self, component: Component) -> Manifest | None:
        """Return the Deployment of a component."""
        return self._get("apps/v1", "Deployment", names.workload(self.name, component))

    def store(self) -> Manifest | None:
        """Return the StatefulSet of the bundled store."""
        return self._get("apps/v1", "StatefulSet", names.workload(self.name, "redis"))

    @property
    def has_workloads(self) -> bool:
        """Whether any Deployment or StatefulSet exists."""
        workloads = (self.deployment("edge"), self.deployment("router"), self.store())
        return any(manifest is not None for manifest in workloads)

    def backup_schedule(self) -> Manifest | None:
        """Return the CronJob of scheduled backups."""
        return self._get("batch/v1", "CronJob", names.backup_schedule(self.name))

    def service(self, name: str) -> Manifest | None:
        """Return a Service."""
        return self._get("v1", "Service", name)

    def restart_hashes(self) -> Mapping[str, str]:
        """Return the restart hashes of the Deployments' pod templates, by component."""
        return {
            process: live_state.template_hash(self.deployment(process))
            for process in names.PROCESSES
        }

    def secrets(self) -> LiveSecrets:
        """Return the data of the Secrets that the operator writes."""
        return LiveSecrets(
            authorities=self._secret(names.authorities_secret(self.name)),
            edge=self._secret(names.workload(self.name, "edge")),
            router=self._secret(names.workload(self.name, "router")),
            admin=self._secret(names.admin_secret(self.name)),
            redis=self._secret(names.workload(self.name, "redis")),
            console=self._secret(names.workload(self.name, "console")),
            console_token=self._secret(names.console_token(self.name)),
        )

    def admin_token(self) -> bytes:
        """Return the token of the pods' admin API, b"" if there is none."""
        return self._secret(names.admin_secret(self.name)).get("token", b"")

    def edge_files(self) -> Mapping[str, bytes]:
        """Return the files that edges mount."""
        return self._secret(names.workload(self.name, "edge"))

    def _secret(self, name: str) -> dict[str, bytes]:
        return decoded(self._get("v1", "Secret", name))

    def _get(self, api_version: str, kind: str, name: str) -> Manifest | None:
        return self.objects.get(ObjectRef(api_version, kind, name))
