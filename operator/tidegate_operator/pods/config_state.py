"""Whether pods run with the configuration that is wanted. Pure.

``observe`` asks pods what they use, ``reconcile`` has what they should use from the ConfigMap and
the Secret that they mount, ``conditions`` puts into words who lags behind.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from enum import Enum
from typing import Any, Final

from tidegate.runtime.config.applied import digest_of
from tidegate_operator import names
from tidegate_operator.live_state import Pod
from tidegate_operator.plan import ObjectRef
from tidegate_operator.render.inputs import decoded
from tidegate_operator.render.restart_hash import digest

#: Parts of a broker that have a configuration of ours, and say which one they use.
COMPONENTS: Final[tuple[names.Component, ...]] = ("edge", "router")

#: A sentence of a pod is not repeated beyond this.
_MAX_SENTENCE: Final = 300
_MAX_NAMED: Final = 4


class Heard(Enum):
    """How a pod answers."""

    #: With its status.
    ANSWER = "answer"
    #: It does not accept the token, as it has not got the new one yet.
    REFUSAL = "refusal"
    #: Not at all, or with something that is no status.
    NOTHING = "nothing"


@dataclass(slots=True, frozen=True)
class InUse:
    """What a pod says of a configuration or a file: which one it uses, and why not the newest."""

    digest: str = ""
    problem: str = ""


@dataclass(slots=True, frozen=True)
class Reported:
    """What a pod says of its configuration. ``files`` are by their path."""

    config: InUse = InUse()
    restart_needed: tuple[str, ...] = ()
    files: Mapping[str, InUse] = field(default_factory=dict)

    def problems(self) -> Iterator[str]:
        """Yield why what is there is not in use, in sentences without a full stop."""
        for one in (self.config, *self.files.values()):
            if one.problem:
                yield _sentence(one.problem)


@dataclass(slots=True, frozen=True)
class Answer:
    """What came of asking a pod. ``reported`` is None if its version does not say."""

    heard: Heard
    connections: int | None = None
    reported: Reported | None = None


NO_ANSWER: Final = Answer(Heard.NOTHING)
REFUSED: Final = Answer(Heard.REFUSAL)


def answer_of(status: object) -> Answer:
    """Return what is in a pod's status, which may be of any version."""
    if not isinstance(status, Mapping):
        return NO_ANSWER
    clients = status.get("clients")
    is_count = isinstance(clients, int) and not isinstance(clients, bool)
    found = status.get("configuration")
    reported = None
    if isinstance(found, Mapping):
        files = found.get("files")
        keys = found.get("restart_needed")
        reported = Reported(
            _in_use(found),
            tuple(map(str, keys)) if isinstance(keys, list) else (),
            {str(path): _in_use(one) for path, one in files.items()}
            if isinstance(files, Mapping)
            else {},
        )
    return Answer(Heard.ANSWER, clients if is_count else None, reported)


def _in_use(found: object) -> InUse:
    if not isinstance(found, Mapping):
        return InUse()
    return InUse(str(found.get("digest") or ""), str(found.get("problem") or ""))


def _sentence(text: str) -> str:
    text = " ".join(text.split()).rstrip(".")
    return text if len(text) <= _MAX_SENTENCE else text[:_MAX_SENTENCE] + "…"


# What is wanted


@dataclass(slots=True, frozen=True)
class Wanted:
    """What the pods of a component should run with: digests as pods report them.

    ``files`` are by their name in the Secret; ``digest`` is of all of it.
    """

    restart_hash: str = ""
    config: str = ""
    files: Mapping[str, str] = field(default_factory=dict)
    digest: str = ""


def wanted(
    name: str, restart_hashes: Mapping[str, str], there: Mapping[ObjectRef, Mapping[str, Any]]
) -> dict[str, Wanted]:
    """Return what is wanted of each component of the broker ``name``, from what it mounts."""
    found: dict[str, Wanted] = {}
    for component in COMPONENTS:
        workload = names.workload(name, component)
        config_map = decoded(there.get(ObjectRef("v1", "ConfigMap", workload)))
        config = digest_of(config_map.get(names.CONFIG_FILE, b""))
        secret = decoded(there.get(ObjectRef("v1", "Secret", workload)))
        files = {file: digest_of(content) for file, content in secret.items()}
        found[component] = Wanted(
            restart_hashes.get(component, ""), config, files, digest([config, files])
        )
    return found


# Who lags behind


@dataclass(slots=True, frozen=True)
class Lag:
    """Why a pod does not have what is wanted, to be put after its name.

    ``is_problem``: it cannot use what it has found. ``is_told``: looking again may help it.
    """

    text: str
    is_problem: bool = False
    is_told: bool = False


def is_counted(pod: Pod) -> bool:
    """Whether a pod should have a configuration of ours."""
    return pod.component in COMPONENTS and not pod.is_ending


def lagging(
    pods: Iterable[Pod], answers: Mapping[str, Answer], standard: Mapping[str, Wanted]
) -> dict[str, Lag]:
    """Return by name who of the pods that count does not have it. ``answers`` are by key."""
    found = {}
    for pod in pods:
        if is_counted(pod):
            lag = lag_of(pod, answers.get(pod.key), standard[pod.component])
            if lag is not None:
                found[pod.name] = lag
    return found


def lag_of(pod: Pod, answer: Answer | None, standard: Wanted) -> Lag | None:
    """Return why one pod does not have what is wanted; None if it has."""
    if pod.restart_hash != standard.restart_hash:
        return Lag("waits to be replaced")
    if pod.trouble:
        return Lag(_sentence(pod.trouble))
    if answer is None or answer.heard is Heard.NOTHING:
        if not pod.is_ready:
            return Lag("has not started yet")
        if answer is None:
            return Lag("has not been asked yet")
        return Lag(f"does not answer the operator on port {names.ADMIN_PORT}", is_told=True)
    if answer.heard is Heard.REFUSAL:
        return Lag("has not got the operator's token yet", is_told=True)
    reported = answer.reported
    if reported is None:
        return Lag(
            "is of a version that does not say which configuration it uses; if that is not the "
            "newest, delete the pod",
            is_told=True,
        )
    for problem in reported.problems():
        return Lag(problem, is_problem=True, is_told=True)
    if reported.restart_needed:
        # Pods of our own version would have been replaced for these.
        keys = _some(reported.restart_needed)
        text = f"its version has to start anew for {keys}; delete the pod"
        return Lag(text, is_problem=True)
    late = list(_late(reported, standard))
    return Lag(f"still has the old {_some(late)}", is_told=True) if late else None


def _late(reported: Reported, standard: Wanted) -> Iterator[str]:
    """Yield what is not in use as it is wanted."""
    if reported.config.digest != standard.config:
        yield "configuration"
    for path, one in sorted(reported.files.items()):
        directory, _, file = path.rpartition("/")
        if directory == names.FILES_DIR and one.digest != standard.files.get(file):
            yield file


def _some(words: Iterable[str]) -> str:
    found = list(words)
    rest = len(found) - _MAX_NAMED
    return ", ".join(found[:_MAX_NAMED]) + (f" and {rest} more" if rest > 0 else "")
