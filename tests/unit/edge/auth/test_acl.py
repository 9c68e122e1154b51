"""mosquitto's access control file, rule by rule. The same against mosquitto itself: integration."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

import pytest

from tidegate.core.second_chance import LONGEST_TOPIC
from tidegate.edge.auth.acl import AclFile, AclFileError, Authorizer, Readable
from tidegate.edge.auth.filter_sets import matches
from tidegate.runtime.config.model import AuthConfig, ListenerConfig

Action = Literal["read", "write"]


LISTENER = ListenerConfig()


def _ask(
    text: str, action: Action, topic: str, username: str | None = None, client_id: str = "c"
) -> bool:
    acl = AclFile.parse(text).for_client(client_id, username)
    return acl.may_read(topic) if action == "read" else acl.may_write(topic)


@pytest.mark.parametrize(
    ("topic_filter", "topic", "matching"),
    [
        ("a/b", "a/b", True),
        ("a/b", "a", False),
        ("a", "a/b", False),
        ("a/+", "a/b", True),
        ("a/+", "a/", True),
        ("a/+", "a", False),
        ("+", "", True),
        ("#", "a/b/c", True),
        ("a/#", "a/b/c", True),
        ("a/#", "b", False),
        ("#", "$SYS/a", False),
        ("+/a", "$SYS/a", False),
        ("$SYS/#", "$SYS/a", True),
        ("$SYS/+", "$SYS/a", True),
    ],
)
@pytest.mark.statement("MQTT-4.7.2-1")
def test_filters_match_as_the_specification_says(
    topic_filter: str, topic: str, matching: bool
) -> None:
    assert matches(topic_filter.split("/"), topic.split("/")) is matching


def test_a_multi_level_filter_matches_its_parent() -> None:
    assert _ask("topic a/#", "read", "a")
    assert _ask("topic a/+/#", "read", "a/b")


def test_lines_before_the_first_section_are_for_clients_without_a_name() -> None:
    text = "topic a\nuser ann\ntopic b\n"
    assert _ask(text, "read", "a", None)
    assert not _ask(text, "read", "a", "ann")
    assert _ask(text, "read", "b", "ann")
    assert not _ask(text, "read", "b", None)


def test_a_section_can_be_continued() -> None:
    text = "user ann\ntopic a\nuser bob\ntopic b\nuser ann\ntopic c\n"
    assert _ask(text, "read", "a", "ann")
    assert _ask(text, "read", "c", "ann")
    assert not _ask(text, "read", "b", "ann")


def test_patterns_apply_to_all_clients_at_any_line() -> None:
    text = "user ann\npattern read dev/%c/#\npattern write user/%u\n"
    assert _ask(text, "read", "dev/c/x", None)
    assert _ask(text, "read", "dev/c/x", "bob")
    assert _ask(text, "write", "user/bob", "bob")
    assert not _ask(text, "write", "user/bob", "ann")


def test_a_pattern_with_a_user_name_is_left_out_without_one() -> None:
    assert not _ask("pattern %u/%u", "read", "%u/%u", None)
    assert not _ask("pattern deny x/%u\npattern x/#", "read", "y", None)
    assert _ask("pattern deny x/%u\npattern x/#", "read", "x/%u", None)


def test_a_refusal_comes_first_wherever_it_stands() -> None:
    text = "topic a/#\ntopic deny a/secret\n"
    assert _ask(text, "read", "a/b")
    assert not _ask(text, "read", "a/secret")
    assert not _ask(text, "write", "a/secret")


def test_the_own_list_is_asked_before_the_patterns() -> None:
    text = "pattern deny a/#\nuser ann\ntopic read a/b\n"
    assert _ask(text, "read", "a/b", "ann")
    assert not _ask(text, "write", "a/b", "ann")
    assert not _ask("user ann\ntopic deny a\npattern readwrite a", "read", "a", "ann")


def test_a_match_without_the_access_falls_through() -> None:
    text = "topic read a/#\ntopic write a/b\npattern write a/c\n"
    assert _ask(text, "write", "a/b")
    assert _ask(text, "write", "a/c")
    assert not _ask(text, "write", "a/d")


@pytest.mark.parametrize(("username", "client_id"), [("a+", "c"), ("#", "c"), ("ann", "c/#")])
def test_a_dangerous_name_gets_nothing_from_patterns(username: str, client_id: str) -> None:
    text = "pattern readwrite #\n"
    assert not _ask(text, "read", "x", username, client_id)
    own = f"user {username}\ntopic x\n"
    assert _ask(own + text, "read", "x", username, client_id)
    assert _ask(own, "read", "x", username, client_id)


def test_a_wildcard_does_not_reach_system_topics() -> None:
    assert not _ask("topic read #", "read", "$SYS/broker/uptime")
    assert not _ask("pattern read #", "read", "$SYS/broker/uptime")
    assert _ask("topic read $SYS/#", "read", "$SYS/broker/uptime")


def test_an_unknown_user_without_patterns_gets_nothing() -> None:
    assert not _ask("topic #\nuser ann\ntopic #", "read", "a", "bob")
    assert not _ask("", "read", "a")


def test_system_topics_are_not_written_but_for_the_state_of_connections() -> None:
    text = "topic readwrite $SYS/#"
    assert not _ask(text, "write", "$SYS/broker/x")
    assert not _ask(text, "write", "$SYSTEM")
    assert _ask(text, "write", "$SYS/broker/connection/c/state")
    assert not _ask("topic #", "write", "$SYS/broker/connection/c/state")


def test_topics_below_share_are_refused() -> None:
    assert not _ask("topic $share/#", "read", "$share/g/a")
    assert not _ask("topic $share/#", "write", "$share/g/a")


def test_other_dollar_topics_follow_the_rules() -> None:
    assert _ask("topic $app/#", "write", "$app/a")
    assert not _ask("topic #", "write", "$app/a")


def test_what_is_put_in_is_not_looked_at_again() -> None:
    assert _ask("pattern %c/%u/100%/%x%", "read", "%u/ann/100%/%x%", "ann", "%u")
    assert not _ask("pattern %c", "read", "ann", "ann", "%u")
    assert _ask("pattern a%cb", "read", "acb")


def test_topics_with_blanks_need_the_access_word() -> None:
    text = "topic read a b/c \ntopic   write    d\n  topic e\t\r\n"
    assert _ask(text, "read", "a b/c")
    assert _ask(text, "write", "d")
    assert _ask(text, "write", "e")
    assert _ask("topic read", "write", "read")  # a topic of that name
    with pytest.raises(AclFileError, match="expected read, write, readwrite or deny, got 'a'"):
        AclFile.parse("topic a b")


def test_comments_and_blank_lines_are_skipped() -> None:
    assert _ask("# topic deny a\n\n   \ntopic a\n", "read", "a")


@pytest.mark.parametrize(
    ("line", "problem"),
    [
        ("nonsense x", "line 2: expected topic, pattern or user, got 'nonsense'"),
        (" # indented", "line 2: expected topic, pattern or user, got '#'"),
        ("topic\tread a", "line 2: expected topic, pattern or user"),
        ("user", "line 2: user name missing"),
        ("topic", "line 2: topic filter missing after topic"),
        ("topic reed a", "line 2: expected read, write"),
        ("topic read a/#/b", "line 2: invalid topic filter 'a/#/b'"),
        ("pattern a+", "line 2: invalid topic filter 'a+'"),
        ("topic a#", "line 2: invalid topic filter 'a#'"),
        ("topic " + "a" * 65_536, "line 2: topic filter longer than 65535 bytes"),
    ],
)
def test_a_line_that_cannot_be_used_is_named(line: str, problem: str) -> None:
    with pytest.raises(AclFileError) as raised:
        AclFile.parse(f"topic a\n{line}\n")
    (found,) = raised.value.problems
    assert found.startswith(problem)


def test_every_problem_is_named_at_once() -> None:
    with pytest.raises(AclFileError) as raised:
        AclFile.parse("x\ny\n")
    assert len(raised.value.problems) == 2


def test_clients_that_the_rules_cannot_tell_apart_share_them() -> None:
    rules = AclFile.parse("topic a\nuser ann\ntopic b\npattern c\n")
    assert rules.for_client("1", "ann") is rules.for_client("2", "ann")
    assert rules.for_client("1", "bob") is rules.for_client("2", "eve")
    assert rules.for_client("1", "bob") is not rules.for_client("1", None)
    assert rules.for_client("1", "ann") is not rules.for_client("+", "ann")
    assert rules.for_client("1", "").may_read("a")  # an empty user name is none
    by_identity = AclFile.parse("pattern %c")
    assert by_identity.for_client("1", None).may_read("1")
    assert not by_identity.for_client("2", None).may_read("1")


def test_what_is_kept_is_bounded_and_right() -> None:
    acl = AclFile.parse("topic read a/+\ntopic write b/+").for_client("c", None, 100)
    for number in range(150):
        assert acl.may_read(f"a/{number}")
        assert not acl.may_write(f"a/{number}")
        assert acl.may_write(f"b/{number}")
        assert not acl.may_read(f"b/{number}")
    assert not acl.may_read("b" * (LONGEST_TOPIC + 1))
    assert acl._read is not None
    assert len(acl._read) == 100
    assert all(len(topic) <= LONGEST_TOPIC for topic in acl._read.recent)


def test_rules_of_one_client_keep_less_than_those_of_many() -> None:
    shared = AclFile.parse("topic a").for_client("c", None, 50_000)
    own = AclFile.parse("pattern %c").for_client("c", None, 50_000)
    assert shared.publishable(1).limit == 50_000
    assert own.publishable(1).limit == 10_000
    assert AclFile.parse("pattern %c").for_client("c", None, 5_000).publishable(1).limit == 5_000


def test_what_may_be_published_is_kept_for_the_same_limits_only() -> None:
    acl = AclFile.parse("topic a").for_client("c", None)
    kept = acl.publishable((1, 2))
    assert acl.publishable((1, 2)) is kept
    assert acl.publishable((1, 3)) is not kept


def _may_read(authorizer: Authorizer, topic: str) -> bool:
    acl = authorizer.for_client("c", None, LISTENER)
    assert acl is not None
    return acl.may_read(topic)


def test_without_a_file_there_are_no_rules() -> None:
    authorizer = Authorizer(AuthConfig())
    assert authorizer.for_client("c", None, LISTENER) is None
    assert authorizer.files() == []


def test_a_reload_takes_the_new_rules_and_a_broken_file_changes_nothing(tmp_path: Path) -> None:
    path = tmp_path / "acl"
    path.write_text("topic a\n")
    authorizer = Authorizer(AuthConfig(acl_file=path))
    assert authorizer.files() == [path]
    assert _may_read(authorizer, "a")
    path.write_text("topic b\n")
    authorizer.reload(path)
    assert not _may_read(authorizer, "a")
    path.write_text("nonsense\n")
    with pytest.raises(AclFileError, match=r"acl_file .*acl: line 1: expected topic"):
        authorizer.reload(path)
    assert _may_read(authorizer, "b")


def test_a_file_that_cannot_be_used_stops_the_start(tmp_path: Path) -> None:
    with pytest.raises(AclFileError, match="cannot be read: No such file"):
        Authorizer(AuthConfig(acl_file=tmp_path / "none"))
    (tmp_path / "bad").write_bytes(b"topic a\ntopic d\xe9ny b\n")
    with pytest.raises(AclFileError, match="line 2: expected read, write, readwrite or deny"):
        Authorizer(AuthConfig(acl_file=tmp_path / "bad"))


def test_a_line_that_is_not_utf_8_matches_nothing_and_is_logged(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    path = tmp_path / "acl"
    lines = (
        b"# a comment in Latin-1: \xe9",
        b"user ann",
        b"topic caf\xe9/#",
        b"\xff\xff",
        b"topic a",
        b"user caf\xe9",
        b"topic b",
        b"pattern c/%u/\xff",
    )
    path.write_bytes(b"\n".join(lines))
    ann = Authorizer(AuthConfig(acl_file=path)).for_client("c", "ann", LISTENER)
    assert ann is not None
    assert ann.may_read("a")
    assert not ann.may_read("b")  # the rules of a user whose name is not UTF-8 are nobody's
    problems = [record.problem for record in caplog.records]  # type: ignore[attr-defined]
    assert problems == [f"line {number}: not UTF-8" for number in (3, 4, 6, 8)]


# How much of a topic filter may be read


@pytest.mark.parametrize(
    ("rules", "topic_filter", "readable"),
    [
        ("", "a", Readable.NONE),
        ("topic read a", "a", Readable.ALL),
        ("topic write a", "a", Readable.NONE),
        ("topic a/b", "a/+", Readable.SOME),
        ("topic a/+", "a/b", Readable.ALL),
        ("topic a/+", "a/#", Readable.SOME),
        ("topic a/#", "a/#", Readable.ALL),
        ("topic a/#", "a", Readable.ALL),
        ("topic a", "a/#", Readable.SOME),
        ("topic #", "#", Readable.ALL),
        ("topic #", "$SYS/#", Readable.NONE),
        ("topic $SYS/#", "#", Readable.NONE),
        ("topic $SYS/#", "+/a", Readable.NONE),
        ("topic $SYS/#", "$SYS/a", Readable.ALL),
        ("topic #\ntopic deny a/b", "a/+", Readable.SOME),
        ("topic #\ntopic deny a/b", "b/+", Readable.ALL),
        ("topic #\ntopic deny a/#", "a/b/+", Readable.NONE),
        ("topic a/b\ntopic a/c\ntopic deny a/+", "a/#", Readable.NONE),
        # Together these are all of it.
        ("topic a\ntopic a/+\ntopic a/+/+/#", "a/#", Readable.ALL),
        ("topic a\ntopic a/+\ntopic a/+/+/+/#", "a/#", Readable.SOME),
        ("topic +\ntopic +/+/#", "#", Readable.ALL),
        # And these deny all of it.
        ("topic #\ntopic deny a\ntopic deny a/+/#", "a/#", Readable.NONE),
        # An own rule comes before a pattern that denies; a pattern grants what no own rule denies.
        ("topic a/#\npattern deny a/b", "a/#", Readable.ALL),
        ("topic a/c\npattern read a/#\npattern deny a/c", "a/#", Readable.ALL),
        ("pattern read a/#\npattern deny a/c", "a/#", Readable.SOME),
        ("topic deny a/#\npattern read a/#", "a/b", Readable.NONE),
        ("pattern read %c/#", "c/+", Readable.ALL),
        ("pattern read %c/#", "d/+", Readable.NONE),
        ("pattern read %u/#", "c/+", Readable.NONE),
        ("topic #", "$share/x/a", Readable.NONE),
        ("topic $shared/a", "$shared/a", Readable.NONE),
    ],
)
def test_a_filter_is_readable_as_a_whole_in_part_or_not(
    rules: str, topic_filter: str, readable: Readable
) -> None:
    acl = AclFile.parse(rules).for_client("c", None)
    assert acl.readable(topic_filter) is readable
    assert acl.readable(topic_filter) is readable, "the same from the cache"


def test_a_client_identifier_with_a_wildcard_may_read_nothing_by_patterns() -> None:
    acl = AclFile.parse("pattern read a/%c\npattern read b").for_client("+", None)
    assert acl.readable("a/+") is Readable.NONE
    assert acl.readable("b") is Readable.NONE
