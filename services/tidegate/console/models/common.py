"""What the models of all trades have in common: lists, errors, and the rules of the shapes."""

from __future__ import annotations

from typing import Annotated, Generic, TypeVar

from fastapi import Query
from pydantic import BaseModel, ConfigDict

ItemT = TypeVar("ItemT")


class Model(BaseModel):
    """A shape of the API. What a request has too much of is an error."""

    model_config = ConfigDict(extra="forbid", use_attribute_docstrings=True)


class Page(Model, Generic[ItemT]):
    """A part of a list."""

    items: list[ItemT]
    next: str | None = None
    """`after` of the next page; null: this is the last one."""
    missing: list[str] = []
    """Nodes whose part is not in the list, and why: `edge-1: timeout`."""


class Partial(Model):
    """An answer that several nodes contribute to."""

    missing: list[str] = []
    """Nodes whose part is not in the answer, and why: `edge-1: timeout`."""


class ErrorBody(Model):
    """Why a request was not served."""

    error: str
    """A sentence for people."""
    reason: str
    """A word of a closed set, for programs."""


#: Query parameters of every list.
After = Annotated[
    str, Query(max_length=4096, description="`next` of the page before; empty: the first page.")
]
Limit = Annotated[int, Query(ge=1, le=1000, description="Items on the page.")]
