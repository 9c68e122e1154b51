"""What Degraded says of nodes that no longer report, and of the pods on them. Pure.

``live_state`` recognises such pods; called by ``status``. The operator reads no nodes.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from tidegate_operator.live_state import Pod


def stranded(pods: Iterable[Pod]) -> list[Pod]:
    """Return the pods that are missing because their node is lost.

    One that Kubernetes has given up counts only in the store: a StatefulSet starts no other one
    while the old one may still run.
    """
    return [
        pod
        for pod in pods
        if pod.lost_node and (pod.component == "redis" or not pod.is_terminating)
    ]


def lost_nodes(pods: Iterable[Pod], ready_stores: int) -> str:
    """Return a message about lost nodes, "" if there are none.

    ``ready_stores`` counts the pods of the bundled store that are ready.
    """
    found = stranded(pods)
    nodes = list(dict.fromkeys(pod.lost_node for pod in found))
    if not nodes:
        return ""
    is_one = len(nodes) == 1
    names = " and ".join(nodes)
    sentences = [
        f"Node{'' if is_one else 's'} {names} no longer report{'s' if is_one else ''} to the "
        "control plane: switched off, cut off, or its kubelet has stopped (kubectl describe node "
        f"{nodes[0]})."
    ]
    for component, text in (
        ("edge", "clients of {pods} have to reconnect to other edges"),
        ("router", "the work of {pods} goes to other routers"),
        ("console", "the console loses {pods}, and clients are not concerned"),
    ):
        lost = [pod.name for pod in found if pod.component == component]
        if lost:
            sentences.append(f"{_capital(text.format(pods=_few(lost)))}.")
    if any(pod.component != "redis" for pod in found):
        sentences.append(
            "Kubernetes replaces edges and routers after five minutes, or as spec.edge.tolerations "
            "and spec.router.tolerations say."
        )
    stores = [pod.name for pod in found if pod.component == "redis"]
    if stores:
        sentences.append(_of_stores(stores, nodes[0], ready_stores))
    return " ".join(sentences)


def _of_stores(stores: Sequence[str], node: str, ready: int) -> str:
    rest = (
        "the rest of the bundled store serves"
        if ready
        else "new connections are rejected, and durable messages are not acknowledged until it is "
        "back"
    )
    return (
        f"{_capital(_few(stores))} of the bundled store is not started elsewhere while it may "
        f"still run there; {rest}. Bring the node back; if it is off for good: kubectl delete node "
        f"{node} (its pod then starts on another node, if its volume can be attached there)."
    )


def _few(names: Sequence[str]) -> str:
    pods = "pod" if len(names) == 1 else "pods"
    more = f" and {len(names) - 3} more" if len(names) > 3 else ""
    return f"{pods} {', '.join(names[:3])}{more}"


def _capital(text: str) -> str:
    return text[:1].upper() + text[1:]
