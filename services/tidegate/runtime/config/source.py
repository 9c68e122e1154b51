"""Where a process' configuration comes from: its file, the environment, and flags.

Variables override the file, and flags override both.

Made by the command line; loaded for the start, and by ``ConfigReload`` whenever the file has
changed.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from tidegate.runtime.config.config_file import ConfigError, Flags, Role, parse, read, with_flags
from tidegate.runtime.config.environment import read_environment
from tidegate.runtime.config.file_version import Signature, digest_of, signature_of
from tidegate.runtime.config.model import Config


@dataclass(slots=True, frozen=True)
class LoadedConfig:
    """A loaded configuration, and the digest of the file's bytes ("" without a file)."""

    source: ConfigSource
    config: Config
    digest: str
    #: Of the file, taken before it was read.
    signature: Signature = None


class ConfigSource:
    """See the module's docstring."""

    __slots__ = ("environment", "flags", "role")

    def __init__(
        self, flags: Flags, role: Role, environment: Mapping[str, str] | None = None
    ) -> None:
        """``environment``: the variables of the process; those that are no settings are ignored."""
        self.flags = flags
        self.environment = read_environment(environment or {})
        self.role: Role = role

    @property
    def path(self) -> Path | None:
        """The file, if there is one."""
        return self.flags.config

    def load(self) -> LoadedConfig:
        """Read and check everything. Raises ConfigError with one line for every problem."""
        path = self.path
        if path is None:
            config = parse(b"", None, self.environment)
            return LoadedConfig(self, with_flags(config, self.flags, self.role), "")
        signature = signature_of(path)
        return self._loaded(path, read(path), signature)

    def load_again(self) -> LoadedConfig:
        """Do the same for a file that has changed; an empty one is an error then."""
        path = self.path
        assert path is not None
        signature = signature_of(path)
        content = read(path)
        if not content.strip():
            raise ConfigError([f"{path}: is empty"])
        return self._loaded(path, content, signature)

    def _loaded(self, path: Path, content: bytes, signature: Signature) -> LoadedConfig:
        config = with_flags(parse(content, path, self.environment), self.flags, self.role)
        return LoadedConfig(self, config, digest_of(content), signature)
