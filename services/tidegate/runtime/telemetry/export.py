"""Starts and stops what a process sends to an OTLP receiver.

Called by the composition root. ``telemetry.otlp``, and with it opentelemetry, is imported only when
an endpoint is configured. Never blocks the event loop: the thread of ``otlp.Sender`` sends.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Sequence
from typing import TYPE_CHECKING

from tidegate.runtime.config.model import TelemetryConfig
from tidegate.runtime.telemetry.metrics import CallbackMetrics, Exporter, ReadSamples
from tidegate.runtime.telemetry.tracing import Tracer

if TYPE_CHECKING:
    from tidegate.runtime.telemetry.otlp import Sender

log = logging.getLogger(__name__)


class TelemetryExport:
    """What ``start_export`` has set up. ``tracer`` is None when nothing is traced."""

    __slots__ = ("_exporter", "_sender", "tracer")

    def __init__(
        self,
        tracer: Tracer | None = None,
        sender: Sender | None = None,
        exporter: Exporter | None = None,
    ) -> None:
        self.tracer = tracer
        self._sender = sender
        self._exporter = exporter

    async def close(self, timeout_s: float = 2.0) -> None:
        """Send what is left, for no longer than ``timeout_s``, and stop."""
        sender, self._sender = self._sender, None
        if sender is None or self._exporter is None:
            return
        sender.finish(self._exporter.families())
        loop = asyncio.get_running_loop()
        if not await loop.run_in_executor(None, sender.wait, timeout_s):
            log.info("OTLP receiver did not accept the last metrics and spans in time")
            sender.abandon()


def start_export(
    config: TelemetryConfig, role: str, name: str, exporter: Exporter
) -> TelemetryExport:
    """Start to send metrics, and spans if ``trace_ratio`` says so. Call from a running event loop.

    ``role`` is edge, router or serve; ``name`` tells this process from its peers. Raises
    ImportError when the packages of the extra ``otlp`` are missing. Without an endpoint nothing
    happens and nothing is imported.
    """
    if config.otlp_endpoint is None:
        return TelemetryExport()
    from tidegate.runtime.telemetry import otlp  # noqa: PLC0415 - costs memory and time only where it is used

    loop = asyncio.get_running_loop()
    tracer = Tracer(config.trace_ratio) if config.trace_ratio else None
    sender = otlp.Sender(config, role, name, tracer, loop, exporter.families)
    exporter.add(CallbackMetrics(_rows(sender, tracer)))
    sender.start()
    return TelemetryExport(tracer, sender, exporter)


def _rows(
    sender: Sender, tracer: Tracer | None
) -> Sequence[tuple[str, str, Sequence[str], ReadSamples]]:
    rows: list[tuple[str, str, Sequence[str], ReadSamples]] = [
        (
            "telemetry_exports_total",
            "Export requests to the OTLP receiver.",
            ["signal", "result"],
            lambda: list(sender.exports.items()),
        )
    ]
    if tracer is not None:
        rows.append(
            (
                "telemetry_spans_total",
                "Spans by result: sent, failed, or dropped because the queue was full.",
                ["result"],
                lambda: [
                    (["sent"], sender.spans_sent),
                    (["failed"], sender.spans_failed),
                    (["dropped"], tracer.dropped),
                ],
            )
        )
    return rows
