"""Why a topic filter does not match a topic that its author meant: the usual mistakes. Pure."""

from __future__ import annotations

from tidegate.mqtt.topics import matches, parse_shared


def near_miss(topic_filter: str, topic: str) -> str:
    """Say what is different; "" when the filter is not nearly right.

    ``topic_filter`` may be a shared subscription's. It does not match ``topic``.
    """
    shared = parse_shared(topic_filter)
    plain = topic_filter if shared is None else shared[1]
    if topic.startswith("$") and plain[:1] in {"+", "#"}:
        return "a filter that begins with a wildcard does not match topics that begin with $"
    if matches(plain.lower(), topic.lower()):
        return "upper and lower case differ"
    if matches(plain.strip(), topic) or plain != plain.strip():
        return "the filter begins or ends with a space"
    if plain.startswith("/") != topic.startswith("/") and matches(
        plain.removeprefix("/"), topic.removeprefix("/")
    ):
        where = "filter" if plain.startswith("/") else "topic"
        return f"the {where} begins with /, which is a level of its own"
    if matches(plain.removesuffix("/"), topic.removesuffix("/")):
        where = "filter" if plain.endswith("/") else "topic"
        return f"the {where} ends with /, which is a level of its own"
    if "*" in plain and matches(plain.replace("*", "#"), topic):
        return "* is no wildcard: # stands for any levels at the end, + for one level"
    if matches(plain.replace("+", "#", 1).partition("#")[0] + "#", topic) and "+" in plain:
        return "+ stands for exactly one level"
    if matches(f"{plain}/#", topic):
        return f"it matches that one topic only; {plain}/# matches what is below it, too"
    return ""
