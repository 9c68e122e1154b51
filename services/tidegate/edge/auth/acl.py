"""Who may read and write which topics: mosquitto's access control file, with mosquitto's rules.

Called by ``edge.client``: ``Authorizer.for_client`` once per connection, then ``may_read`` and
``may_write`` per topic, ``readable`` per SUBSCRIBE; ``roles`` reloads the file. Topics include the
mount point of a listener, as in mosquitto. Reading is checked at delivery, whatever SUBSCRIBE was
granted.

The rules, in the order in which they decide:

1. No client reads or writes below ``$share``, and the only topics below ``$SYS`` that a rule can
let a
   client write are ``$SYS/broker/connection/+/state``.
2. The client's own list: that of its ``user`` section, or for clients without a user name the
   ``topic`` lines before the first section. Refusals (``deny``) come first, then file order; the
   first entry that matches the topic and grants the access decides, a match without it does not.
3. With ``pattern`` lines, a user name or client identifier with ``+`` or ``#`` is refused.
4. The patterns, as in 2; ``%c`` and ``%u`` are replaced, and those with ``%u`` are left out for
   clients without a user name.
5. Anything else is refused.

A filter that does not begin with ``$`` never matches a topic that does.
"""

from __future__ import annotations

import logging
from collections.abc import Hashable, Iterable, Mapping, Sequence
from enum import Enum
from pathlib import Path
from typing import Final, Literal

from tidegate.core.second_chance import LONGEST_TOPIC, SecondChance
from tidegate.core.topic_index import CACHED_TOPICS
from tidegate.edge.auth.filter_sets import Levels, intersection, is_contained, matches
from tidegate.edge.auth.listener_files import ListenerFiles
from tidegate.edge.auth.passwords import is_utf8
from tidegate.runtime.config.model import AuthConfig, ListenerConfig

log = logging.getLogger(__name__)

DENY: Final = 0
READ: Final = 1
WRITE: Final = 2

_ACCESS_WORDS: Final = {"read": READ, "write": WRITE, "readwrite": READ | WRITE, "deny": DENY}
#: What C's isspace() knows; str.strip() without arguments would take more.
_BLANKS: Final = " \t\n\v\f\r"
_MAX_TOPIC_BYTES: Final = 65_535
#: Decisions that are kept of rules that are one client's: what it may cost.
_MAX_OWN: Final = 10_000
#: Topic filters of which is kept how much of them may be read.
_MAX_FILTERS: Final = 512
_LOGGED_PROBLEMS: Final = 20
#: Rules shared by clients, where no pattern depends on the client.
_MAX_SHARED: Final = 4096
_FIRST_WORDS: Final = frozenset({"topic", "pattern", "user"})
_BRIDGE_STATE: Final = ("$SYS", "broker", "connection", "+", "state")

#: (granted access bits, topic filter)
Entry = tuple[int, str]
#: (granted access bits, levels of the topic filter)
CompiledEntry = tuple[int, Levels]


class Readable(Enum):
    """How many of the topics that a topic filter matches a client may read."""

    NONE = "none"
    SOME = "some"
    ALL = "all"


class AclFileError(ValueError):
    """The file cannot be used. ``problems`` has one line for each reason."""

    def __init__(self, problems: Sequence[str]) -> None:
        super().__init__("; ".join(problems))
        self.problems = list(problems)


def _compile(entries: Sequence[Entry]) -> tuple[CompiledEntry, ...]:
    """Split the filters, refusals first. ``a/#`` gets a second entry for its parent ``a``."""
    result: list[CompiledEntry] = []
    for access, topic_filter in sorted(entries, key=lambda entry: entry[0] != DENY):
        levels = tuple(topic_filter.split("/"))
        result.append((access, levels))
        if len(levels) > 1 and levels[-1] == "#":
            result.append((access, levels[:-1]))
    return tuple(result)


class ClientAcl:
    """The rules of one client (or of all clients that have the same rules)."""

    __slots__ = (
        "_cached_topics",
        "_limits",
        "_own",
        "_patterns",
        "_publishable",
        "_read",
        "_readable",
        "_refuse_patterns",
    )

    def __init__(
        self,
        own: Sequence[Entry],
        patterns: Sequence[Entry],
        *,
        refuse_patterns: bool,
        cached_topics: int = _MAX_OWN,
    ) -> None:
        """``cached_topics``: topics of which is kept whether they may be read, or written."""
        self._own = _compile(own)
        self._patterns = () if refuse_patterns else _compile(patterns)
        self._refuse_patterns = refuse_patterns
        self._cached_topics = cached_topics
        # Made when they are needed: most connections need none or one.
        self._read: SecondChance[str, bool] | None = None
        self._publishable: SecondChance[str, bool] | None = None
        self._limits: Hashable = None
        self._readable: SecondChance[str, Readable] | None = None

    def may_read(self, topic: str) -> bool:
        """Whether a message of this topic may be delivered to the client."""
        if self._read is None:
            self._read = SecondChance(self._cached_topics)
        allowed = self._read.find(topic)
        if allowed is None:
            allowed = self._decide(READ, topic)
            if len(topic) <= LONGEST_TOPIC:
                self._read.add(topic, allowed)
        return allowed

    def may_write(self, topic: str) -> bool:
        """Whether the client may publish to this topic; not kept (see ``publishable``)."""
        return self._decide(WRITE, topic)

    def publishable(self, limits: Hashable) -> SecondChance[str, bool]:
        """Return where receivers of publishes keep what may be published under these limits."""
        if self._publishable is None or self._limits != limits:
            self._publishable = SecondChance(self._cached_topics)
            self._limits = limits
        return self._publishable

    def readable(self, topic_filter: str) -> Readable:
        """How much of a topic filter (without ``$share/…``) the client may read. Exact."""
        known = self._readable
        if known is None:
            known = self._readable = SecondChance(_MAX_FILTERS)
        found = known.find(topic_filter)
        if found is None:
            found = self._compare(tuple(topic_filter.split("/")))
            known.add(topic_filter, found)
        return found

    def _compare(self, levels: Levels) -> Readable:
        if levels[0].startswith("$share"):
            return Readable.NONE
        parts: list[list[Levels]] = []  # what the rules have in common with the filter
        for entries in (self._own, self._patterns):
            denied: list[Levels] = []
            granted: list[Levels] = []
            for access, rule in entries:
                if access == DENY or access & READ:
                    common = intersection(levels, rule)
                    if common is not None:
                        (denied if access == DENY else granted).append(common)
            parts += [denied, granted]
        denied, granted, pattern_denied, pattern_granted = parts
        if all(is_contained(part, denied) for part in granted) and all(
            is_contained(part, [*denied, *pattern_denied]) for part in pattern_granted
        ):
            return Readable.NONE
        if (
            not denied
            and is_contained(levels, [*granted, *pattern_granted])
            # A pattern denies only what no own rule grants.
            and all(is_contained(part, granted) for part in pattern_denied)
        ):
            return Readable.ALL
        return Readable.SOME

    def _decide(self, access: int, topic: str) -> bool:
        if topic.startswith("$share"):
            return False
        levels = topic.split("/")
        if access == WRITE and topic.startswith("$SYS") and not matches(_BRIDGE_STATE, levels):
            return False
        for entries in (self._own, self._patterns):
            for granted, filter_levels in entries:
                if (granted == DENY or granted & access) and matches(filter_levels, levels):
                    return granted != DENY
        return False


class AclFile:
    """A parsed file: lists by user name (None: clients without one), and patterns.

    ``problems`` has a line for each line that is not UTF-8 and therefore matches nothing.
    """

    __slots__ = ("_patterns", "_shared", "_users", "problems")

    def __init__(
        self,
        users: dict[str | None, list[Entry]],
        patterns: list[Entry],
        problems: Sequence[str] = (),
    ) -> None:
        self.problems = list(problems)
        self._users = users
        self._patterns = patterns
        by_identity = any("%c" in text or "%u" in text for _, text in patterns)
        self._shared: SecondChance[tuple[str | None, bool], ClientAcl] | None = (
            None if by_identity else SecondChance(_MAX_SHARED)
        )

    @classmethod
    def parse(cls, text: str) -> AclFile:
        """Parse the text of a file. Raises AclFileError with a line for every problem.

        Bytes that are not UTF-8 are lone surrogates in ``text``: no topic and no user name has
        them, so such a rule never applies, and the rules of such a user are nobody's.
        """
        parser = _Parser()
        for number, line in enumerate(text.split("\n"), 1):
            parser.parse_line(number, line.rstrip(_BLANKS))
        if parser.problems:
            raise AclFileError(parser.problems)
        return cls(parser.users, parser.patterns, parser.ignored)

    @classmethod
    def load(cls, path: Path) -> AclFile:
        """Read and parse a file. Raises AclFileError, also when it cannot be read."""
        try:
            return cls.parse(path.read_bytes().decode("utf-8", "surrogateescape"))
        except OSError as error:
            raise AclFileError([f"cannot be read: {error.strerror}"]) from None

    def for_client(
        self, client_id: str, username: str | None, cached_topics: int = _MAX_OWN
    ) -> ClientAcl:
        """Return the rules of a client; an empty user name is none, as in mosquitto.

        ``cached_topics``: topics for which rules that clients share keep what they say.
        """
        username = username or None
        refuse_patterns = bool(self._patterns) and _has_wildcard(client_id, username)
        if self._shared is None:
            own_topics = min(cached_topics, _MAX_OWN)
            return self._make(client_id, username, refuse_patterns, own_topics)
        key = (username if username in self._users else None, refuse_patterns)
        if username is not None and key[0] is None:
            key = ("", refuse_patterns)  # a user without a section; no section has that name
        acl = self._shared.find(key)
        if acl is None:
            acl = self._make(client_id, username, refuse_patterns, cached_topics)
            self._shared.add(key, acl)
        return acl

    def _make(
        self, client_id: str, username: str | None, refuse_patterns: bool, cached_topics: int
    ) -> ClientAcl:
        patterns: list[Entry] = []
        if not refuse_patterns:
            for access, text in self._patterns:
                if "%u" not in text or username is not None:
                    patterns.append((access, _substitute(text, client_id, username)))
        own = self._users.get(username, ())
        return ClientAcl(
            own, patterns, refuse_patterns=refuse_patterns, cached_topics=cached_topics
        )


def _has_wildcard(client_id: str, username: str | None) -> bool:
    return any(mark in text for text in (client_id, username or "") for mark in "+#")


def _substitute(pattern: str, client_id: str, username: str | None) -> str:
    """Replace %c and %u in one pass: replaced text is not searched again."""
    pieces: list[str] = []
    position = 0
    while True:
        found = pattern.find("%", position)
        if found < 0 or found + 1 >= len(pattern):
            return "".join((*pieces, pattern[position:]))
        pieces.append(pattern[position:found])
        mark = pattern[found + 1]
        position = found + 2
        if mark == "c":
            pieces.append(client_id)
        elif mark == "u" and username is not None:
            pieces.append(username)
        else:
            pieces.append("%")
            position = found + 1


class _Parser:
    """Parses lines one by one, and collects entries and problems."""

    __slots__ = ("_user", "ignored", "patterns", "problems", "users")

    def __init__(self) -> None:
        self.users: dict[str | None, list[Entry]] = {}
        self.patterns: list[Entry] = []
        self.problems: list[str] = []
        #: Lines that are not UTF-8.
        self.ignored: list[str] = []
        self._user: str | None = None

    def parse_line(self, number: int, line: str) -> None:
        """Parse one line, without blanks at its end."""
        if line.startswith("#"):
            return
        word, _, rest = line.lstrip(" ").partition(" ")
        if not word:
            return
        if not is_utf8(line):
            self.ignored.append(f"line {number}: not UTF-8")
            if word not in _FIRST_WORDS:
                return
        if word == "user":
            name = rest.strip(_BLANKS)
            if name:
                self._user = name
            else:
                self.problems.append(f"line {number}: user name missing")
        elif word in _FIRST_WORDS:
            problem = self._parse_rule(word, rest.lstrip(" "))
            if problem:
                self.problems.append(f"line {number}: {problem}")
        else:
            self.problems.append(
                f"line {number}: expected topic, pattern or user, got {word[:60]!r}"
            )

    def _parse_rule(self, word: str, rest: str) -> str:
        """Add a rule; return what is wrong with it, or an empty string."""
        first, _, topic = rest.partition(" ")
        if not first:
            return f"topic filter missing after {word}"
        access = READ | WRITE
        if topic:
            if first not in _ACCESS_WORDS:
                return f"expected read, write, readwrite or deny, got {first[:60]!r}"
            access = _ACCESS_WORDS[first]
            topic = topic.strip(_BLANKS)
        else:
            topic = first
        problem = _filter_problem(topic)
        if not problem:
            entries = self.patterns if word == "pattern" else self.users.setdefault(self._user, [])
            entries.append((access, topic))
        return problem


def _filter_problem(topic_filter: str) -> str:
    if len(topic_filter.encode("utf-8", "surrogateescape")) > _MAX_TOPIC_BYTES:
        return f"topic filter longer than {_MAX_TOPIC_BYTES} bytes"
    levels = topic_filter.split("/")
    for index, level in enumerate(levels):
        if ("+" in level and level != "+") or (
            "#" in level and (level != "#" or index != len(levels) - 1)
        ):
            return f"invalid topic filter {topic_filter[:60]!r}"
    return ""


class Authorizer:
    """The rules of the process: the file of a listener, else that of ``auth``, or none.

    Raises AclFileError if a file cannot be used at the start; ``reload`` raises it too, and then
    the rules stay as they were.
    """

    __slots__ = ("_files", "cached_topics", "denied_subscribe", "session_owner")

    def __init__(self, auth: AuthConfig, listeners: Sequence[ListenerConfig] = ()) -> None:
        self.denied_subscribe: Literal["refuse", "grant"] = auth.denied_subscribe
        #: Whose session a client may have: that of its user, or anyone's.
        self.session_owner: Literal["user", "any"] = auth.session_owner
        #: For so many topics rules that clients share keep what they say; set by the edge.
        self.cached_topics = CACHED_TOPICS
        self._files = ListenerFiles("acl_file", self._load, AclFile({}, []))
        self._files.apply(auth, listeners, self._files.prepare(auth, listeners))

    def files(self) -> list[Path]:
        """Return the files to watch."""
        return self._files.paths()

    def reload(self, path: Path) -> None:
        """Read a file again. Connections keep their old rules until ``for_client`` is called."""
        self._files.reload(path)

    def prepare(
        self, auth: AuthConfig, listeners: Sequence[ListenerConfig] = ()
    ) -> dict[Path, AclFile]:
        """Read the files that other settings name and that are not in use yet, for ``apply``.

        Raises AclFileError.
        """
        return self._files.prepare(auth, listeners)

    def apply(
        self,
        auth: AuthConfig,
        listeners: Sequence[ListenerConfig],
        files: Mapping[Path, AclFile],
        connected: Iterable[ListenerConfig] = (),
    ) -> bool:
        """Take other settings; ``files`` is what ``prepare`` returned for them.

        ``connected``: the listeners that clients came through, as they were then. Returns whether
        the rules have changed; connections keep theirs, as after ``reload``.
        """
        self.denied_subscribe = auth.denied_subscribe
        self.session_owner = auth.session_owner
        return self._files.apply(auth, listeners, files, connected)

    @staticmethod
    def _load(path: Path) -> AclFile:
        try:
            rules = AclFile.load(path)
        except AclFileError as error:
            raise AclFileError([f"acl_file {path}: {p}" for p in error.problems]) from None
        for problem in rules.problems[:_LOGGED_PROBLEMS]:
            log.warning("line in ACL file ignored", extra={"path": str(path), "problem": problem})
        return rules

    def for_client(
        self, client_id: str, username: str | None, listener: ListenerConfig
    ) -> ClientAcl | None:
        """Return the rules of a client; None: it may read and write everything but ``$SYS``."""
        rules = self._files.of(listener)
        if rules is None:
            return None
        return rules.for_client(client_id, username, self.cached_topics)
