"""Who is looked at when an object of somebody else changes."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from tidegate_operator.secrets.reference_index import ReferenceIndex
from tidegate_operator.secrets.references import ObjectKey

OBJECTS: list[ObjectKey] = [("Secret", "a"), ("Secret", "b"), ("ConfigMap", "a")]


@given(
    st.lists(
        st.tuples(
            st.sampled_from(["iot", "other"]),
            st.sampled_from(["one", "two"]),
            st.sets(st.sampled_from(OBJECTS)),
        )
    )
)
def test_only_what_a_broker_refers_to_now_leads_to_it(
    steps: list[tuple[str, str, set[ObjectKey]]],
) -> None:
    index = ReferenceIndex()
    model: dict[tuple[str, str], set[ObjectKey]] = {}
    for namespace, name, objects in steps:
        index.update((namespace, name), objects)
        model[namespace, name] = objects
    for namespace in ("iot", "other"):
        for one in OBJECTS:
            wanted = {
                name
                for (where, name), objects in model.items()
                if where == namespace and one in objects
            }
            assert index.brokers_referring_to(namespace, one) == wanted
    for broker in model:
        index.forget(broker)
    assert not any(
        index.brokers_referring_to(namespace, one)
        for namespace in ("iot", "other")
        for one in OBJECTS
    )
    assert not index._objects
    assert not index._brokers
