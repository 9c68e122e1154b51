"""From a YAML file, the environment and flags to a ``Config``; every problem becomes one line.

Called by the command line, by ``source`` and by the operator. Starts nothing. Relative paths in a
file are resolved against the file's directory; those in variables and flags, and the defaults,
against the working directory.
"""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final, Literal, TypeVar

import yaml
from pydantic import ValidationError

from tidegate.runtime.config.addresses import parse_address
from tidegate.runtime.config.environment import (
    EnvironmentSettings,
    origin_text,
    overlay,
)
from tidegate.runtime.config.listener_url import ListenerUrlError, parse_listener_url, split_address
from tidegate.runtime.config.model import (
    LABEL_PATTERN,
    Config,
    ListenerConfig,
    ListenerProtocol,
    Section,
)
from tidegate.runtime.config.store_url import StoreKind, parse_store_url
from tidegate.runtime.config.validation import (
    Location,
    mismatch_text,
    path_text,
    section_in,
    unknown_key_text,
)

#: A configuration is a few pages; more is a mistake (a data file, a disk image).
MAX_FILE_BYTES: Final = 4 * 1024 * 1024
_MAX_PROBLEMS: Final = 50

SectionT = TypeVar("SectionT", bound=Section)


class ConfigError(Exception):
    """The configuration cannot be used. ``problems`` has one line for each reason."""

    def __init__(self, problems: Sequence[str]) -> None:
        super().__init__("\n".join(problems))
        self.problems = list(problems)


class UnreadableFile(ConfigError):
    """The file cannot be read, whatever its content."""


@dataclass(slots=True, frozen=True)
class Flags:
    """The settings of the command line; None (or empty) leaves a setting as the file has it."""

    config: Path | None = None
    listeners: Sequence[str] = ()
    data_dir: Path | None = None
    redis: str | None = None
    allow_anonymous: bool | None = None
    password_file: Path | None = None
    acl_file: Path | None = None
    admin: str | None = None
    log_level: str | None = None
    log_format: str | None = None
    tls_cert: Path | None = None
    tls_key: Path | None = None
    tls_ca: Path | None = None
    name: str | None = None
    link: str | None = None
    routers: Sequence[str] = ()
    edge_count: int | None = None
    router_count: int | None = None


#: A command that needs a configuration.
Role = Literal["serve", "edge", "router", "console"]

#: The listeners of ``serve`` and ``edge`` when neither the file nor a flag has any.
DEFAULT_LISTENERS: Final = ("tcp://127.0.0.1:1883", "ws://127.0.0.1:8083")


def load(path: Path) -> Config:
    """Read, check and return the configuration in the YAML file ``path``.

    Raises ConfigError with one line for every problem found.
    """
    return parse(read(path), path)


def read(path: Path) -> bytes:
    """Return the content of a configuration file. Raises ConfigError."""
    try:
        with path.open("rb") as stream:
            content = stream.read(MAX_FILE_BYTES + 1)
    except OSError as error:
        raise UnreadableFile([f"{path}: cannot be read: {error.strerror}"]) from None
    if len(content) > MAX_FILE_BYTES:
        raise ConfigError([f"{path}: larger than {MAX_FILE_BYTES} bytes"])
    return content


def parse(
    content: bytes, path: Path | None, environment: EnvironmentSettings | None = None
) -> Config:
    """Check and return the configuration in ``content``, which was read from ``path``.

    The settings of ``environment`` override those of the file. Raises ConfigError with one line for
    every problem found.
    """
    return parse_with_origins(content, path, environment)[0]


def parse_with_origins(
    content: bytes, path: Path | None, environment: EnvironmentSettings | None = None
) -> tuple[Config, list[str]]:
    """Do the same, and return a sentence for each setting that is from the environment.

    Without a ``path`` there is no file.
    """
    lines: dict[Location, int | str] = {}
    said: list[str] = []
    problems = list(environment.problems) if environment is not None else []
    try:
        data, numbers = ({}, {}) if path is None else _data_of(content, path)
        lines |= numbers
        if environment is not None:
            said = overlay(data, lines, environment.settings)
        config = Config.model_validate(data)
    except ValidationError as error:
        raise ConfigError(problems + describe(error, Config, lines)) from None
    except RecursionError:
        raise ConfigError([f"{path}: lists and mappings are nested too deeply"]) from None
    if problems:
        raise ConfigError(problems)
    return with_absolute_paths(config, path.absolute().parent) if path is not None else config, said


def from_flags(flags: Flags, role: Role = "serve") -> Config:
    """Return the configuration of the file (if one is named), overridden by the flags.

    Listeners given as flags replace those of the file; without any, ``DEFAULT_LISTENERS`` are used
    (a router has none). Raises ConfigError with one line for every problem found.
    """
    return with_flags(load(flags.config) if flags.config is not None else Config(), flags, role)


def with_flags(config: Config, flags: Flags, role: Role) -> Config:
    """Return a file's configuration overridden by the flags, as ``from_flags`` does."""
    data = config.model_dump(exclude_unset=True)
    problems: list[str] = []
    has_own = bool(config.listeners) or role in {"router", "console"}
    urls = flags.listeners or (() if has_own else DEFAULT_LISTENERS)
    if urls:
        data["listeners"] = _listeners_of(urls, flags, problems)
    elif flags.tls_cert or flags.tls_key or flags.tls_ca:
        problems.append("--tls-cert, --tls-key and --tls-ca require --listener")
    named = {
        ("store", "data_dir"): flags.data_dir,
        ("store", "url"): flags.redis,
        ("auth", "allow_anonymous"): flags.allow_anonymous,
        ("auth", "password_file"): flags.password_file,
        ("auth", "acl_file"): flags.acl_file,
        ("log", "level"): flags.log_level,
        ("log", "format"): flags.log_format,
        ("link", "listen"): flags.link,
        ("link", "routers"): list(flags.routers) or None,
        ("cluster", "edges"): flags.edge_count,
        ("cluster", "routers"): flags.router_count,
    }
    for (section, key), value in named.items():
        if value is not None:
            data.setdefault(section, {})[key] = value
    if flags.admin is not None:
        data.setdefault("admin", {}).update(_admin_of(flags.admin, problems))
    if flags.name is not None:
        data["name"] = flags.name
    if problems:
        raise ConfigError(problems)
    try:
        config = Config.model_validate(data)
    except ValidationError as error:
        raise ConfigError(describe(error, Config, {})) from None
    problems = _missing_settings(role, config)
    if problems:
        raise ConfigError(problems)
    return config


def _missing_settings(role: Role, config: Config) -> list[str]:
    """Return a line for each setting that a role requires and that is missing."""
    problems = []
    if role == "router" and config.store.url is None:
        problems.append(
            "store.url: a router requires a Redis or Valkey server (--redis URL); only "
            "`tidegate serve` can run an embedded one"
        )
    if role == "edge" and not config.link.routers:
        problems.append(
            "link.routers: an edge requires the address of a router (--router HOST:PORT)"
        )
    if role == "console" and config.store.url is None:
        problems.append(
            "store.url: a console requires the broker's Redis or Valkey server (--redis URL); that "
            "of a `tidegate serve` with an embedded server is started by it"
        )
    return problems + (problems_of_cluster(config) if role == "serve" else [])


def problems_of_cluster(config: Config) -> list[str]:
    """Return a line for each setting that several edges on one machine do not support."""
    if config.cluster.edges < 2:
        return []
    return [
        f"listeners[{index}]: {config.cluster.edges} edges cannot share a Unix socket"
        for index, listener in enumerate(config.listeners)
        if listener.protocol is ListenerProtocol.UNIX
    ]


def warnings_of(config: Config, role: Role = "serve") -> list[str]:
    """Return a line for each setting that is valid and probably not intended."""
    if role == "router":
        return [*_warnings_of_link(config), *_warnings_of_store(config)]
    if role == "console":
        return _warnings_of_store(config)
    found = _warnings_of_store(config) if role == "serve" else []
    auth = config.auth
    for listener in config.listeners:
        allowed = listener.allow_anonymous
        anonymous = auth.allow_anonymous if allowed is None else allowed
        by_certificate = listener.tls.identity_as_username != "off"
        password_file = listener.password_file or auth.password_file
        if not anonymous and not by_certificate and password_file is None:
            found.append(
                f"listener {listener.label}: no client can connect: anonymous clients are not "
                "allowed and there is no password file"
            )
        if anonymous and not _is_local(listener):
            found.append(
                f"listener {listener.label}: anyone who can reach {listener.address} can connect "
                "without a password"
            )
    return found


def warnings_of_file(config: Config) -> list[str]:
    """Return what any of the roles that may read this configuration warns of."""
    return [*warnings_of(config), *_warnings_of_link(config)]


def _warnings_of_store(config: Config) -> list[str]:
    store = config.store
    if store.url is None:
        return []
    found: list[str] = []
    url = parse_store_url(store.url)
    if url.kind is not StoreKind.SINGLE and store.durability != "replicated":
        found.append(
            f"store: with durability {store.durability} acknowledged writes may be lost at a "
            "failover; use durability replicated"
        )
    if url.password and not url.unix:
        found.append("store: a password in the URL is visible in process lists; use password_file")
    return found


def _warnings_of_link(config: Config) -> list[str]:
    listen = config.link.listen
    host = listen.rpartition(":")[0].strip("[]")
    if listen.startswith("unix:") or _is_loopback(host) or config.link.tls.ca is not None:
        return []
    return [
        f"link.listen: link.tls is not set: anyone who can reach {listen} can connect as an edge, "
        "and the traffic is not encrypted"
    ]


def _is_local(listener: ListenerConfig) -> bool:
    return listener.protocol is ListenerProtocol.UNIX or _is_loopback(listener.address)


def _is_loopback(address: str) -> bool:
    try:
        return parse_address(address).is_loopback
    except ValueError:
        return address == "localhost"


# Flags


def _listeners_of(urls: Sequence[str], flags: Flags, problems: list[str]) -> list[dict[str, Any]]:
    listeners: list[dict[str, Any]] = []
    any_tls = False
    for url in urls:
        try:
            listener = parse_listener_url(url)
        except ListenerUrlError as error:
            problems.append(f"--listener {url}: {error}")
            continue
        protocol = listener["protocol"]
        takes_tls = protocol in {"tls", "wss"} or (protocol == "auto" and bool(flags.tls_cert))
        if takes_tls:
            any_tls = True
            if flags.tls_cert is None:
                problems.append(f"--listener {url}: requires --tls-cert (and --tls-key)")
                continue
            listener["tls"] = _tls_of(flags.tls_cert, flags)
        try:
            ListenerConfig.model_validate(listener)
        except ValidationError as error:
            problems += [f"--listener {url}: {d}" for d in describe(error, ListenerConfig, {})]
        listeners.append(listener)
    if not any_tls and (flags.tls_cert or flags.tls_key or flags.tls_ca):
        problems.append("--tls-cert, --tls-key and --tls-ca require a tls, wss or auto listener")
    return listeners


def _tls_of(certificate: Path, flags: Flags) -> dict[str, Any]:
    tls: dict[str, Any] = {
        "certificates": [{"certificate": certificate, "key": flags.tls_key or certificate}]
    }
    if flags.tls_ca is not None:
        tls |= {"client_ca": flags.tls_ca, "client_certificates": "required"}
    return tls


def _admin_of(value: str, problems: list[str]) -> dict[str, Any]:
    if value == "off":
        return {"enabled": False}
    try:
        address, port = split_address(value)
    except ListenerUrlError as error:
        problems.append(f"--admin {value}: {error}")
        return {}
    if port is None:
        problems.append(f"--admin {value}: expected ADDRESS:PORT or off")
    return {"enabled": True, "address": address, "port": port}


# The file


@dataclass(slots=True)
class _Tree:
    """The result of a walk over the YAML nodes."""

    lines: dict[Location, int] = field(default_factory=dict)
    problems: list[str] = field(default_factory=list)


def _data_of(content: bytes, path: Path) -> tuple[dict[str, Any], dict[Location, int]]:
    """Return the data of the file and the line of each key."""
    tree = _Tree()
    try:
        node = yaml.compose(content, Loader=yaml.SafeLoader)
        if node is not None:
            _walk(node, (), tree, ())
        data = {} if node is None or tree.problems else _constructed(node)
    except (yaml.YAMLError, ValueError) as error:
        raise ConfigError([f"{path}: {_yaml_problem(error)}"]) from None
    if tree.problems:
        raise ConfigError(tree.problems)
    if not isinstance(data, dict):
        raise ConfigError([f"{path}: expected a mapping at the top level"])
    return data, tree.lines


def _constructed(node: yaml.Node) -> object:
    loader = yaml.SafeLoader("")
    try:
        data: object = loader.construct_document(node)
    finally:
        loader.dispose()
    return data


def _walk(node: yaml.Node, location: Location, tree: _Tree, above: tuple[yaml.Node, ...]) -> None:
    tree.lines.setdefault(location, node.start_mark.line + 1)
    if any(node is ancestor for ancestor in above):
        tree.problems.append(f"{path_text(location)}: refers to itself")
        return
    above = (*above, node)
    if isinstance(node, yaml.MappingNode):
        seen: dict[Hashable, int] = {}
        for key, value in node.value:
            name = key.value if isinstance(key, yaml.ScalarNode) else str(key.start_mark)
            line = key.start_mark.line + 1
            here = (*location, name)
            if name in seen:
                tree.problems.append(
                    f"{path_text(here)}: duplicate key (lines {seen[name]} and {line})"
                )
            seen[name] = line
            tree.lines[here] = line
            _walk(value, here, tree, above)
    elif isinstance(node, yaml.SequenceNode):
        for index, value in enumerate(node.value):
            _walk(value, (*location, index), tree, above)


def _yaml_problem(error: Exception) -> str:
    if isinstance(error, yaml.MarkedYAMLError) and error.problem_mark is not None:
        mark = error.problem_mark
        text = " ".join(str(part) for part in (error.problem, error.context) if part)
        return f"not valid YAML at line {mark.line + 1}, column {mark.column + 1}: {text}"
    return f"not valid YAML: {' '.join(str(error).split())}"


def with_absolute_paths(section: SectionT, base: Path) -> SectionT:
    """Return ``section`` with the relative paths that were set made absolute."""
    update: dict[str, Any] = {}
    for name in section.model_fields_set:
        value = getattr(section, name)
        if isinstance(value, Path):
            update[name] = base / value
        elif isinstance(value, Section):
            update[name] = with_absolute_paths(value, base)
        elif isinstance(value, list) and value and isinstance(value[0], Section):
            update[name] = [with_absolute_paths(item, base) for item in value]
    if isinstance(section, ListenerConfig) and section.protocol is ListenerProtocol.UNIX:
        update["address"] = str(base / section.address)
    return section.model_copy(update=update) if update else section


# Problems in words


#: Regular expressions of the model's fields, in words.
_PATTERNS: Final = {LABEL_PATTERN: "lower-case letters, digits and inner hyphens"}


def describe(
    error: ValidationError, model: type[Section], lines: Mapping[Location, int | str]
) -> list[str]:
    """Return one line for each problem: ``key.path: what is expected (line N)``.

    ``lines`` has the line in the file, or the environment variable, that a value is from.
    """
    problems = [_describe_one(dict(problem), model, lines) for problem in error.errors()]
    if len(problems) > _MAX_PROBLEMS:
        rest = len(problems) - _MAX_PROBLEMS
        problems = [*problems[:_MAX_PROBLEMS], f"and {rest} more problems"]
    return problems


def _describe_one(
    problem: Mapping[str, Any], model: type[Section], lines: Mapping[Location, int | str]
) -> str:
    location: Location = tuple(problem["loc"])
    kind: str = problem["type"]
    if kind == "extra_forbidden":
        text = unknown_key_text(location[-1], _known_keys(location[:-1], model))
    elif kind == "missing":
        text = "is missing"
    elif kind == "value_error":
        text = str(problem["ctx"]["error"])
    else:
        text = mismatch_text(problem, _PATTERNS)
    return f"{path_text(location)}: {text}{origin_text(location, lines)}"


def _known_keys(location: Location, model: type[Section]) -> list[str]:
    for part in location:
        if isinstance(part, str):
            section = section_in(model.model_fields[part].annotation)
            assert section is not None
            model = section
    return list(model.model_fields)
