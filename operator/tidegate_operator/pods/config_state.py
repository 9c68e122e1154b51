"""Whether pods use the desired configuration. Pure.

``admin_client`` parses what pods report, ``desired_configs`` takes what they should use from the
ConfigMap and Secret that they mount, and ``status`` says which pods are outdated.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from enum import Enum
from typing import Any, Final

from tidegate.runtime.config.file_version import digest_of
from tidegate_operator import names
from tidegate_operator.live_state import Pod
from tidegate_operator.plan import ObjectRef
from tidegate_operator.render.inputs import decoded
from tidegate_operator.render.restart_hash import digest

#: A problem that a pod reports is truncated to this.
_MAX_SENTENCE: Final = 300
_MAX_NAMED: Final = 4


# What pods report


class PollResult(Enum):
    """The result of polling a pod."""

    #: It has returned its status.
    REPORTED = "reported"
    #: It rejects the token: it has not reloaded the newest one yet.
    UNAUTHORIZED = "unauthorized"
    #: No response, or one that is not a status.
    UNREACHABLE = "unreachable"


@dataclass(slots=True, frozen=True)
class ReportedFile:
    """A file (or the configuration) in use, by its digest, and why a newer one is not."""

    digest: str = ""
    problem: str = ""


@dataclass(slots=True, frozen=True)
class ReportedConfig:
    """The configuration that a pod uses. ``files`` are by their path."""

    config: ReportedFile = ReportedFile()
    restart_needed: tuple[str, ...] = ()
    files: Mapping[str, ReportedFile] = field(default_factory=dict)

    def problems(self) -> Iterator[str]:
        """Yield why the newest content is not in use, in sentences without a full stop."""
        for file in (self.config, *self.files.values()):
            if file.problem:
                yield _sentence(file.problem)


@dataclass(slots=True, frozen=True)
class PodReport:
    """What polling a pod returned. ``config`` is None if its version does not report it."""

    result: PollResult
    connections: int | None = None
    config: ReportedConfig | None = None


UNREACHABLE: Final = PodReport(PollResult.UNREACHABLE)
UNAUTHORIZED: Final = PodReport(PollResult.UNAUTHORIZED)


def parse_report(status: object) -> PodReport:
    """Return the report in a pod's status, which may be of any version."""
    if not isinstance(status, Mapping):
        return UNREACHABLE
    clients = status.get("clients")
    is_count = isinstance(clients, int) and not isinstance(clients, bool)
    configuration = status.get("configuration")
    config = _parse_config(configuration) if isinstance(configuration, Mapping) else None
    return PodReport(PollResult.REPORTED, clients if is_count else None, config)


def _parse_config(configuration: Mapping[Any, Any]) -> ReportedConfig:
    files = configuration.get("files")
    keys = configuration.get("restart_needed")
    return ReportedConfig(
        _parse_file(configuration),
        tuple(map(str, keys)) if isinstance(keys, list) else (),
        {str(path): _parse_file(file) for path, file in files.items()}
        if isinstance(files, Mapping)
        else {},
    )


def _parse_file(file: object) -> ReportedFile:
    if not isinstance(file, Mapping):
        return ReportedFile()
    return ReportedFile(str(file.get("digest") or ""), str(file.get("problem") or ""))


def _sentence(text: str) -> str:
    text = " ".join(text.split()).rstrip(".")
    return text if len(text) <= _MAX_SENTENCE else text[:_MAX_SENTENCE] + "…"


# What they should use


@dataclass(slots=True, frozen=True)
class DesiredConfig:
    """What the pods of a component should use: digests as pods report them.

    ``files`` are by their name in the Secret; ``digest`` is of all of it.
    """

    restart_hash: str = ""
    config: str = ""
    files: Mapping[str, str] = field(default_factory=dict)
    digest: str = ""


def desired_configs(
    name: str, restart_hashes: Mapping[str, str], live: Mapping[ObjectRef, Mapping[str, Any]]
) -> dict[str, DesiredConfig]:
    """Return what the components of the broker ``name`` should use, from what their pods mount."""
    desired: dict[str, DesiredConfig] = {}
    for component in names.PROCESSES:
        workload = names.workload(name, component)
        config_map = decoded(live.get(ObjectRef("v1", "ConfigMap", workload)))
        config = digest_of(config_map.get(names.CONFIG_FILE, b""))
        secret = decoded(live.get(ObjectRef("v1", "Secret", workload)))
        files = {file: digest_of(content) for file, content in secret.items()}
        desired[component] = DesiredConfig(
            restart_hashes.get(component, ""), config, files, digest([config, files])
        )
    return desired


# Outdated pods


@dataclass(slots=True, frozen=True)
class Outdated:
    """Why a pod does not use the desired configuration; ``text`` continues after its name.

    ``is_rejected``: it cannot use the new content. ``needs_refresh``: if its kubelet syncs what it
    mounts, that may help.
    """

    text: str
    is_rejected: bool = False
    needs_refresh: bool = False


def has_config(pod: Pod) -> bool:
    """Whether a pod should have a configuration: an edge or router that is not terminating."""
    return pod.component in names.PROCESSES and not pod.is_terminating


def outdated_pods(
    pods: Iterable[Pod],
    reports: Mapping[str, PodReport],
    desired: Mapping[str, DesiredConfig],
) -> dict[str, Outdated]:
    """Return by name which pods are outdated. ``reports`` are by the pods' key."""
    outdated = {}
    for pod in pods:
        if has_config(pod):
            reason = outdated_reason(pod, reports.get(pod.key), desired[pod.component])
            if reason is not None:
                outdated[pod.name] = reason
    return outdated


def outdated_reason(pod: Pod, report: PodReport | None, desired: DesiredConfig) -> Outdated | None:
    """Return why a pod does not use the desired configuration; None if it does."""
    if pod.restart_hash != desired.restart_hash:
        return Outdated("waits for its replacement")
    if pod.failure:
        return Outdated(_sentence(pod.failure))
    if report is None or report.result is PollResult.UNREACHABLE:
        if not pod.is_ready:
            return Outdated("is starting")
        if report is None:
            return Outdated("has not been polled yet")
        text = f"does not respond to the operator on port {names.ADMIN_PORT}"
        return Outdated(text, needs_refresh=True)
    if report.result is PollResult.UNAUTHORIZED:
        return Outdated("does not accept the operator's token yet", needs_refresh=True)
    if report.config is None:
        return Outdated(
            "runs a version that does not report its configuration; if it is outdated, delete the "
            "pod",
            needs_refresh=True,
        )
    return _outdated_config(report.config, desired)


def _outdated_config(config: ReportedConfig, desired: DesiredConfig) -> Outdated | None:
    for problem in config.problems():
        return Outdated(problem, is_rejected=True, needs_refresh=True)
    if config.restart_needed:
        # Pods of the operator's own version would have been replaced for these.
        keys = _some(config.restart_needed)
        text = f"its version needs a restart for {keys}; delete the pod"
        return Outdated(text, is_rejected=True)
    old = list(_outdated_files(config, desired))
    return Outdated(f"still uses the old {_some(old)}", needs_refresh=True) if old else None


def _outdated_files(config: ReportedConfig, desired: DesiredConfig) -> Iterator[str]:
    """Yield what is not in use as desired."""
    if config.config.digest != desired.config:
        yield "configuration"
    for path, reported in sorted(config.files.items()):
        directory, _, file = path.rpartition("/")
        if directory == names.FILES_DIR and reported.digest != desired.files.get(file):
            yield file


def _some(words: Iterable[str]) -> str:
    listed = list(words)
    rest = len(listed) - _MAX_NAMED
    return ", ".join(listed[:_MAX_NAMED]) + (f" and {rest} more" if rest > 0 else "")
