"""Generates the CustomResourceDefinition of ``MqttBackup`` from its models, as ``crd`` does.

``python -m tidegate_operator.spec.backup_crd [FILE]`` writes it; a test compares the committed
file.
"""

from __future__ import annotations

import sys
from typing import Any, Final, get_args

from tidegate_operator import names
from tidegate_operator.spec import crd
from tidegate_operator.spec.backups import BackupConditionType, MqttBackupSpec, MqttBackupStatus
from tidegate_operator.spec.crd import Schema

#: Incremented with every change of the schema; an older operator does not replace a newer one.
REVISION: Final = 2

#: The Job has the name, and its pods have it in a label.
MAX_NAME: Final = 63

_COLUMNS: Final = (
    ("Broker", "string", ".spec.broker", 0),
    ("Phase", "string", ".status.phase", 0),
    ("Bytes", "integer", ".status.bytes", 0),
    ("Completed", "date", ".status.completedAt", 0),
    ("Age", "date", ".metadata.creationTimestamp", 0),
    ("Sessions", "integer", ".status.sessions", 1),
    ("Queued", "integer", ".status.queuedMessages", 1),
    ("Retained", "integer", ".status.retainedMessages", 1),
    ("Location", "string", ".status.location", 1),
    ("Message", "string", ".status.message", 1),
)


def definition() -> Schema:
    """Return the CustomResourceDefinition."""
    resource_names: Schema = {
        "kind": names.BACKUP_KIND,
        "listKind": f"{names.BACKUP_KIND}List",
        "plural": names.BACKUP_PLURAL,
        "singular": names.BACKUP_SINGULAR,
        "shortNames": [names.BACKUP_SHORT_NAME],
    }
    return crd.definition_of(
        names.BACKUP_CRD_NAME, REVISION, resource_names, _COLUMNS, {"status": {}}, root_schema()
    )


def root_schema() -> Schema:
    """Return the schema of a whole MqttBackup."""
    return {
        "type": "object",
        "description": "One backup of a broker: sessions, queues, retained messages.",
        "required": ["spec"],
        "properties": {
            "apiVersion": {"type": "string"},
            "kind": {"type": "string"},
            "metadata": {
                "type": "object",
                "properties": {"name": {"type": "string", "maxLength": 253}},
            },
            "spec": crd.structural(MqttBackupSpec),
            "status": crd.structural(MqttBackupStatus)
            | {"description": "Observed state of the backup.", "default": not_observed()},
        },
        "x-kubernetes-validations": [
            {
                "rule": f"self.metadata.name.size() <= {MAX_NAME}",
                "message": f"metadata.name: at most {MAX_NAME} characters are allowed, because "
                "the Job has this name",
            },
        ],
    }


def not_observed() -> dict[str, Any]:
    """Return the status of a resource that no operator has seen: the default in the CRD."""
    return {
        "observedGeneration": -1,
        "conditions": [
            {
                "type": kind,
                "status": "Unknown",
                "reason": "NotObserved",
                "message": "No operator has seen this resource yet: check that one runs for this "
                "namespace, and that it is not older than the resource's definition.",
                "lastTransitionTime": "1970-01-01T00:00:00Z",
            }
            for kind in get_args(BackupConditionType)
        ],
    }


def generate() -> str:
    """Return the text of the committed file."""
    return crd.text(definition(), "backups.py")


def main(arguments: list[str]) -> None:
    """Write the definition to the given file, or to standard output."""
    crd.write(generate(), arguments)


if __name__ == "__main__":
    main(sys.argv[1:])
