"""The objects that were applied with the last spec that was not refused: kept in a Secret.

A Secret of the broker, which Kubernetes deletes with it, so that a new operator knows them, too. In
no ConfigMap: who writes one must not be able to have the operator apply anything. Called by
``reconciler``; ``missing_objects`` decides what of it comes back. Pure, except that ``LastApplied``
remembers.
"""

from __future__ import annotations

import base64
import binascii
import gzip
import io
import json
import zlib
from collections.abc import Mapping, Sequence
from typing import Any, Final

from tidegate_operator import names
from tidegate_operator.names import BrokerKey
from tidegate_operator.plan import ObjectRef, belongs_to, is_applied, with_applied_hash
from tidegate_operator.reconcile.missing_objects import KEPT_KINDS
from tidegate_operator.render.inputs import Manifest, Owner

#: The key of the Secret: a JSON list, compressed. Its manifests have no times and no passwords.
KEY: Final = "objects.json.gz"
#: What is larger than this is not kept; a usual broker has 1 to 3 KiB. The API server takes 1 MiB.
MAX_BYTES: Final = 256 * 1024
#: What is larger than this after decompression was not written by an operator.
_MAX_DECOMPRESSED_BYTES: Final = 64 * MAX_BYTES


class LastApplied:
    """Of each broker the Secret as this process has written or read it last, which brings it back
    if it is deleted while a spec is refused."""

    def __init__(self) -> None:
        self._records: dict[BrokerKey, Manifest] = {}
        #: Those that could not be written: they are not tried again until they change.
        self._refused: dict[BrokerKey, Manifest] = {}

    def of(self, owner: Owner, live: Mapping[ObjectRef, Manifest]) -> list[Manifest]:
        """Return what was applied; the Secret itself is the last one. Nothing if it is not known.

        The live Secret goes first, since another operator may have written it in the meantime; but
        not if it could not be written.
        """
        key = (owner.namespace, owner.name)
        record = live.get(ref_of(owner.name))
        found = [] if record is None or key in self._refused else applied_by(record, owner)
        if found and record is not None:
            self._records[key] = _secret(owner, record["data"][KEY])
        elif key in self._records:
            found = applied_by(self._records[key], owner)
        return [*found, self._records[key]] if found else []

    def is_current(self, owner: Owner, live: Mapping[ObjectRef, Manifest]) -> bool:
        """Whether the live Secret is what this process has written or read last."""
        record = self._records.get((owner.namespace, owner.name))
        current = live.get(ref_of(owner.name))
        if record is None or current is None:
            return False
        return belongs_to(current, owner.uid) and is_applied(with_applied_hash(record), current)

    def is_refused(self, owner: Owner, record: Manifest) -> bool:
        """Whether this very Secret could not be written before."""
        return self._refused.get((owner.namespace, owner.name)) == record

    def written(self, owner: Owner, record: Manifest, *, is_refused: bool) -> None:
        """Note a Secret that was written, or could not be."""
        key = (owner.namespace, owner.name)
        self._records[key] = record
        if is_refused:
            self._refused[key] = record
        else:
            self._refused.pop(key, None)

    def forget(self, key: BrokerKey) -> None:
        """Remove a deleted broker."""
        self._records.pop(key, None)
        self._refused.pop(key, None)


def ref_of(broker: str) -> ObjectRef:
    """Return the reference of a broker's Secret."""
    return ObjectRef("v1", "Secret", names.last_applied_secret(broker))


def record_of(owner: Owner, manifests: Sequence[Manifest]) -> Manifest:
    """Return the Secret for what was applied, whole; an empty one if it would be too large."""
    packed = _packed([manifest for manifest in manifests if manifest["kind"] in KEPT_KINDS])
    if len(packed) > MAX_BYTES:
        packed = _packed([])
    return _secret(owner, base64.b64encode(packed).decode("ascii"))


def _packed(manifests: Sequence[Manifest]) -> bytes:
    text = json.dumps(manifests, sort_keys=True, separators=(",", ":"))
    return gzip.compress(text.encode(), mtime=0)


def _secret(owner: Owner, packed: str) -> Manifest:
    return owner.secret(names.last_applied_secret(owner.name), "last-applied", {}) | {
        "data": {KEY: packed}
    }


def applied_by(record: Mapping[str, Any], owner: Owner) -> list[Manifest]:
    """Return the objects of a Secret; none if it is not this broker's, or damaged."""
    if not belongs_to(record, owner.uid):
        return []
    try:
        packed = base64.b64decode((record.get("data") or {})[KEY], validate=True)
        with gzip.open(io.BytesIO(packed)) as file:
            text = file.read(_MAX_DECOMPRESSED_BYTES)
        found = json.loads(text)
        is_good = isinstance(found, list) and all(_is_of(one, owner) for one in found)
    except (KeyError, TypeError, ValueError, EOFError, OSError, zlib.error, binascii.Error):
        return []
    return found if is_good else []


def _is_of(manifest: Mapping[str, Any], owner: Owner) -> bool:
    """Whether an object is one that the operator may have made for this broker."""
    metadata = manifest["metadata"]
    return (
        manifest["kind"] in KEPT_KINDS
        and metadata["namespace"] == owner.namespace
        and metadata["labels"][names.INSTANCE_LABEL] == owner.name
        and metadata["labels"][names.MANAGED_BY_LABEL] == names.FIELD_MANAGER
        and metadata["ownerReferences"] == [owner.owner_reference()]
    )
