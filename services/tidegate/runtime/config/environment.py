"""Settings from environment variables, for containers: ``TIDEGATE_STORE__URL`` is ``store.url``.

Called by ``config_file`` and the command line, which hand the environment in. Pure, but for the
working directory, against which relative paths count.

A variable of ours that is no setting is an error where it was meant as one: with ``__`` in its name
or but for that the name of a setting. Any other is a warning: Kubernetes makes variables from
the names of Services, and a process must not fail because of a Service's name.
"""

from __future__ import annotations

import difflib
import json
import re
import types
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any, Final, Union, get_args, get_origin

from tidegate.runtime.config.model import Config, Section
from tidegate.runtime.config.validation import Location, path_text, section_in

PREFIX: Final = "TIDEGATE_"
SEPARATOR: Final = "__"
#: Variables of ours that are no settings: between the processes of one ``tidegate serve``.
INTERNAL: Final = frozenset({"TIDEGATE_STORE_GROUP"})
#: What the kubelet makes of a Service that is called tidegate or tidegate-….
_SERVICE_LINK: Final = re.compile(
    r".*_(SERVICE_(HOST|PORT(_[A-Z0-9_]+)?)|PORT(_\d+_(TCP|UDP|SCTP).*)?)"
)
#: The value of the variable …_PORT among them; a person would write a number.
_LINK: Final = re.compile(r"(tcp|udp|sctp)://.*")


@dataclass(slots=True, frozen=True)
class Setting:
    """A variable, the key that it sets, and the value as plain data for the model."""

    variable: str
    location: tuple[str, ...]
    value: Any

    @property
    def key(self) -> str:
        """The key as the configuration spells it."""
        return path_text(self.location)


@dataclass(slots=True)
class EnvironmentSettings:
    """What an environment says: settings, lines for what is wrong, and for what is suspicious."""

    settings: list[Setting] = field(default_factory=list)
    problems: list[str] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)


def variables() -> dict[str, tuple[str, ...]]:
    """Return every variable that is a setting, and the key that it sets."""
    return {
        PREFIX + SEPARATOR.join(part.upper() for part in location): location
        for location, _ in _leaves(Config, ())
    }


def read_environment(environment: Mapping[str, str]) -> EnvironmentSettings:
    """Return the settings in an environment. A variable without a value counts as not set."""
    found = EnvironmentSettings()
    annotations = dict(_leaves(Config, ()))
    known = variables()
    for variable, text in sorted(environment.items()):
        if not variable.startswith(PREFIX) or variable in INTERNAL or not text:
            continue
        location = known.get(variable)
        if location is None:
            if not _is_service_link(variable, text):
                _unknown(variable, known, found)
            continue
        try:
            value = _value(text, annotations[location])
        except ValueError as error:
            found.problems.append(f"{path_text(location)}: {error} (from {variable})")
            continue
        found.settings.append(Setting(variable, location, value))
    return found


def without_settings(environment: Mapping[str, str]) -> dict[str, str]:
    """Return an environment for a process whose file has all settings already."""
    known = variables()
    return {name: value for name, value in environment.items() if name not in known}


def overlay(
    data: dict[str, Any], lines: dict[Location, int | str], settings: list[Setting]
) -> list[str]:
    """Set the settings in the data of a file, and where they are from in ``lines``.

    Returns a sentence for each of them, with the line of the file that it overrides.
    """
    said = []
    for setting in settings:
        before = lines.get(setting.location)
        where = f", instead of line {before}" if isinstance(before, int) else ""
        said.append(f"{setting.key} is from {setting.variable}{where}")
        section: Any = data
        for part in setting.location[:-1]:
            section = section.setdefault(part, {}) if isinstance(section, dict) else None
        if isinstance(section, dict):
            section[setting.location[-1]] = setting.value
        length = len(setting.location)
        for location in [each for each in lines if each[:length] == setting.location]:
            del lines[location]
        lines[setting.location] = setting.variable
    return said


def origin_text(location: Location, lines: Mapping[Location, int | str]) -> str:
    """Return where a value is from, in brackets; "" if nobody has set it.

    A rule about a whole section names the variables that set something in it.
    """
    for length in range(len(location), 0, -1):
        origin = lines.get(location[:length])
        if isinstance(origin, str):
            return f" (from {origin})"
        if isinstance(origin, int) and length == len(location):
            inside = _variables_in(location, lines)
            return f" (line {origin}{inside and f'; from {inside}'})"
    inside = _variables_in(location, lines)
    return f" (from {inside})" if inside else ""


def _variables_in(location: Location, lines: Mapping[Location, int | str]) -> str:
    length = len(location)
    found = [
        origin
        for each, origin in lines.items()
        if isinstance(origin, str) and length < len(each) and each[:length] == location
    ]
    return ", ".join(found)


def _leaves(model: type[Section], above: tuple[str, ...]) -> Iterator[tuple[tuple[str, ...], Any]]:
    for name, info in model.model_fields.items():
        section = section_in(info.annotation)
        if section is None or get_origin(info.annotation) is list:
            yield (*above, name), info.annotation
        else:
            yield from _leaves(section, (*above, name))


def _is_service_link(variable: str, text: str) -> bool:
    """Whether Kubernetes has made it: TIDEGATE_ADMIN_PORT is of a Service tidegate-admin."""
    if _SERVICE_LINK.fullmatch(variable) is None:
        return False
    return not variable.endswith("_PORT") or "_SERVICE_" in variable or bool(_LINK.match(text))


def _unknown(
    variable: str, known: Mapping[str, tuple[str, ...]], found: EnvironmentSettings
) -> None:
    flat = {name.replace(SEPARATOR, "_"): name for name in known}
    meant = flat.get(variable)
    if meant is None and SEPARATOR in variable:
        close = difflib.get_close_matches(variable, known, n=1)
        hint = f"; did you mean {close[0]}?" if close else ""
        found.problems.append(f"{variable}: there is no such setting{hint}")
    elif meant is not None:
        found.problems.append(f"{variable}: there is no such setting; did you mean {meant}?")
    else:
        found.warnings.append(f"{variable}: there is no such setting, the variable has no effect")


def _value(text: str, annotation: Any) -> Any:
    """Return the text as the model wants it. Raises ValueError."""
    kinds = _kinds(annotation)
    if list in kinds:
        try:
            value = json.loads(text)
        except ValueError:
            value = None
        if not isinstance(value, list):
            raise ValueError("expected a list in JSON")
        return [_with_absolute_paths(item, section_in(annotation)) for item in value]
    return Path(text).absolute() if Path in kinds else text


def _kinds(annotation: Any) -> set[Any]:
    origin = get_origin(annotation)
    if origin is Annotated:
        return _kinds(get_args(annotation)[0])
    if origin in {Union, types.UnionType}:
        return {kind for part in get_args(annotation) for kind in _kinds(part)}
    return {origin or annotation}


def _with_absolute_paths(item: Any, section: type[Section] | None) -> Any:
    """Return plain data of a section with its paths made absolute; what is no section stays."""
    if section is None or not isinstance(item, dict):
        return item
    found = dict(item)
    if found.get("protocol") == "unix" and isinstance(found.get("address"), str):
        found["address"] = str(Path(found["address"]).absolute())
    for name, info in section.model_fields.items():
        value, part = found.get(name), section_in(info.annotation)
        if isinstance(value, str) and Path in _kinds(info.annotation):
            found[name] = Path(value).absolute()
        elif isinstance(value, list):
            found[name] = [_with_absolute_paths(each, part) for each in value]
        elif isinstance(value, dict):
            found[name] = _with_absolute_paths(value, part)
    return found
