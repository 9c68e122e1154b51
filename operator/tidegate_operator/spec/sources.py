"""Files that a spec refers to, or contains: certificates, revocation lists, passwords, rules."""

from __future__ import annotations

from typing import Annotated, Self

from pydantic import Field, model_validator

from tidegate_operator.spec.fields import DataKey, ObjectName, SpecSection, rules


class FileSource(SpecSection):
    """A file: one key of a Secret or of a ConfigMap in the broker's namespace."""

    model_config = rules(
        (
            "has(self.secretName) != has(self.configMapName)",
            "exactly one of secretName and configMapName is required",
        ),
    )

    secret_name: ObjectName | None = None
    """The Secret."""
    config_map_name: ObjectName | None = None
    """The ConfigMap."""
    key: DataKey = "ca.crt"
    """The key in it."""

    @model_validator(mode="after")
    def _one_source(self) -> Self:
        if (self.secret_name is None) == (self.config_map_name is None):
            raise ValueError("exactly one of secret_name and config_map_name is required")
        return self


class RevocationListSource(FileSource):
    """Certificate revocation lists: one key of a Secret or of a ConfigMap."""

    key: DataKey = "ca.crl"
    """The key in it."""


class PasswordsSource(SpecSection):
    """A password file, as written by `tidegate passwd`, in a Secret."""

    secret_name: ObjectName
    """The Secret."""
    key: DataKey = "passwords"
    """The key in it."""


class AclSpec(SpecSection):
    """Authorization of clients, in the format of mosquitto's acl_file; reloaded without restart."""

    model_config = rules(
        ("has(self.rules) != has(self.source)", "exactly one of rules and source is required"),
    )

    rules: Annotated[str, Field(max_length=262_144)] | None = None
    """The rules, inline."""
    source: FileSource | None = None
    """A Secret or ConfigMap with the rules."""

    @model_validator(mode="after")
    def _one_source(self) -> Self:
        if (self.rules is None) == (self.source is None):
            raise ValueError("exactly one of rules and source is required")
        return self
