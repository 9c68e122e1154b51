"""Examines certificates and revocation lists: what has expired, and what will soon."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator
from typing import Final

from tidegate.doctor.findings import Finding, advice, ok, problem
from tidegate.edge.transport.client_trust import (
    UnusableFile,
    Validity,
    client_trust,
    validities_in,
)
from tidegate.edge.transport.tls import NOT_ACCEPTED
from tidegate.runtime.config.model import Config

_AREA: Final = "certificates"
_DAY_S: Final = 86_400
#: Renewal is due before so little is left.
SOON_DAYS: Final = 30
_LISTS_SOON_DAYS: Final = 2


def expires(days: int) -> str:
    """Return when something expires of which so many whole days are left, as a predicate."""
    if days < 1:
        return "expires within a day"
    return f"expires in {days} day{'s' * (days > 1)}"


def examine_certificates(config: Config) -> Iterator[Finding]:
    """Yield what is not valid, or not for long. Files that cannot be read are left to others."""
    now_s = time.time()
    validities = list(_validities(config))
    for each, is_list in validities:
        text = each.problem(now_s)
        days = int((each.not_after - now_s) // _DAY_S)
        if text:
            yield problem(_AREA, f"{each.path}: {text}", _renew(is_list))
        elif days < (_LISTS_SOON_DAYS if is_list else SOON_DAYS):
            yield advice(_AREA, f"{each.path}: {each.what} {expires(days)}", _renew(is_list))
        else:
            yield ok(_AREA, f"{each.path}: {each.what} is valid for {days} days")
    for index, listener in enumerate(config.listeners):
        with contextlib.suppress(OSError, UnusableFile):
            for gap in client_trust(listener.tls).gaps:
                yield advice(
                    _AREA,
                    f"listeners[{index}].tls: {gap}",
                    "add the missing list to `client_crl`: clients of that CA are refused",
                )


def _renew(is_list: bool) -> str:
    what = "list" if is_list else "certificate"
    return f"put a new {what} into the file; it is used without a restart"


def _validities(config: Config) -> Iterator[tuple[Validity, bool]]:
    link, store = config.link.tls, config.store
    for listener in config.listeners:
        for pair in listener.tls.certificates:
            with contextlib.suppress(OSError, UnusableFile):
                for each in validities_in(pair.certificate, NOT_ACCEPTED):
                    yield each, False
        with contextlib.suppress(OSError, UnusableFile):
            trust = client_trust(listener.tls)
            yield from ((each, False) for each in trust.authorities)
            yield from ((each, True) for each in trust.lists)
    for file in (link.ca, link.certificate, store.tls_ca, store.tls_certificate):
        if file is not None:
            with contextlib.suppress(OSError, UnusableFile):
                for each in validities_in(file, "connections may fail"):
                    yield each, False
