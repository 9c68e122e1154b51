"""The condition CertificatesReady. Pure; called by ``conditions``."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import datetime, timedelta
from typing import Final

from tidegate_operator.secrets.references import Fault
from tidegate_operator.spec.status import Reason
from tidegate_operator.status.broker_state import BrokerState, Value, sentences, some

#: How long before a certificate expires a missing renewal is reported.
ENDS_SOON: Final = timedelta(days=7)
_ONLY_LISTENERS: Final = (
    "These are the listeners' own, in use now; the newest spec is invalid, so authorities of "
    "clients, revocation lists and the console's certificate are not looked at."
)


def certificates_ready(state: BrokerState, now: datetime) -> Value:
    """Return CertificatesReady."""
    if state.spec is None:
        if not state.certificates:
            return "Unknown", Reason.INVALID_SPEC, "The spec is invalid."
        status, reason, text = _expiry(state, now)
        return status, reason, f"{text} {_ONLY_LISTENERS}"
    problems = [problem for problem in state.reference_problems if problem.is_certificate]
    for fault, reason, hint in (
        (Fault.INVALID, Reason.INVALID, ""),
        (Fault.MISSING, Reason.MISSING, ""),
        (Fault.PENDING, Reason.PENDING, " (kubectl describe certificate)"),
    ):
        faulty = [problem for problem in problems if problem.fault is fault]
        if faulty:
            return "False", reason, f"{sentences(faulty)}{hint}."
    console = state.spec.console
    is_console_encrypted = console.enabled and console.tls is not None
    if not is_console_encrypted and not any(listener.tls for listener in state.spec.listeners):
        return "True", Reason.NOT_NEEDED, "No listener uses TLS."
    missing = [
        f"listener {listener.name}: certificate not issued yet"
        for listener in state.spec.listeners
        if listener.tls is not None and not state.certificates.get(listener.name)
    ]
    if is_console_encrypted and state.console_certificate is None:
        missing.append("the console: certificate not issued yet")
    if missing:
        return "False", Reason.PENDING, f"{some(missing)}."
    return _expiry(state, now)


def _expiry(state: BrokerState, now: datetime) -> Value:
    certificates = list(_named_certificates(state))
    expired = [
        f"{name} expired at {_minute(expiry)}" for expiry, name in certificates if expiry <= now
    ]
    if expired:
        return "False", Reason.INVALID, f"{some(expired)}; clients reject it."
    expiring = [
        f"{name} expires at {_minute(expiry)}"
        for expiry, name in certificates
        if expiry <= now + ENDS_SOON
    ]
    if expiring:
        return (
            "True",
            Reason.ENDS_SOON,
            f"{some(expiring)}; its renewal is overdue: check what renews it.",
        )
    first = min((expiry for expiry, _ in certificates), default=None)
    until = f" The first expires at {_minute(first)}." if first is not None else ""
    return "True", Reason.ISSUED, f"All certificates are valid.{until}"


def _named_certificates(state: BrokerState) -> Iterator[tuple[datetime, str]]:
    """Yield the expiry of each certificate, and its name in messages."""
    for listener, certificates in state.certificates.items():
        for certificate in certificates:
            name = f"listener {listener}: certificate {certificate.subject}"
            yield certificate.not_after, name
    console = state.console_certificate
    if console is not None:
        yield console.not_after, f"the console: certificate {console.subject}"


def _minute(moment: datetime) -> str:
    return f"{moment:%Y-%m-%d %H:%M} UTC"
