"""``python -m tidegate_operator``: parses the command line, and runs the operator until SIGTERM."""

from __future__ import annotations

import argparse
import json
import logging
import os
import sys
from typing import Any, Literal, cast

import kopf
from pydantic import ValidationError

from tidegate.runtime.config.spelling import camel
from tidegate.runtime.telemetry import log as logs
from tidegate_operator.handlers import Operator, Options, register
from tidegate_operator.spec.maintenance import MaintenanceWindow

#: kopf needs a user name, which a container's user may not have.
_USER = "LOGNAME"


def parser() -> argparse.ArgumentParser:
    """Return the parser of the command line; the chart sets its flags from values."""
    command = argparse.ArgumentParser(
        "tidegate_operator", description="Run the operator of MqttBrokers."
    )
    add = command.add_argument
    add("--image", required=True, help="Image of brokers without spec.image")
    add("--namespace", default="tidegate-system", help="Namespace of the operator")
    add(
        "--watch",
        action="append",
        default=[],
        metavar="NAMESPACE",
        help="Watch only this namespace (repeatable)",
    )
    add(
        "--resync-s",
        type=float,
        default=60.0,
        help="Interval of reconciling unchanged brokers, in seconds",
    )
    add("--workers", type=int, default=8, help="Number of brokers reconciled concurrently")
    add(
        "--metrics-peers",
        type=_peers,
        default=[],
        metavar="JSON",
        help="Peers (as in a NetworkPolicy) that reach the admin ports of brokers that name none",
    )
    add(
        "--rollout-max-concurrent",
        type=_count,
        default=3,
        metavar="N",
        help="Brokers whose pods are replaced at the same time because of a new operator; 0: all",
    )
    add(
        "--maintenance-windows",
        type=_windows,
        default=[],
        metavar="JSON",
        help="Windows (as in spec.maintenance) of brokers that have none of their own",
    )
    add("--no-crd-upgrade", action="store_true", help="Do not upgrade the CRD at start")
    add(
        "--log-level",
        default="info",
        choices=["debug", "info", "warning", "error"],
        help="Minimum level of log lines",
    )
    add("--log-format", default="json", choices=["json", "text"], help="Format of log lines")
    add("--admin-address", default="*", help="Address of health and metrics; *: all, IPv4 and IPv6")
    add("--admin-port", type=int, default=8080, help="Port of health and metrics")
    return command


def _peers(text: str) -> list[dict[str, Any]]:
    """Return a JSON list of objects. Raises ValueError."""
    found = json.loads(text)
    if not isinstance(found, list) or not all(isinstance(one, dict) for one in found):
        raise ValueError(text)
    return found


def _count(text: str) -> int:
    """Return a number that is not negative. Raises ValueError."""
    found = int(text)
    if found < 0:
        raise ValueError(text)
    return found


def _windows(text: str) -> list[MaintenanceWindow]:
    """Return maintenance windows. Raises argparse.ArgumentTypeError, which says what is wrong."""
    try:
        return [MaintenanceWindow.model_validate(one) for one in _peers(text)]
    except ValidationError as error:
        wrong = [f"{camel(str(one['loc'][-1]))}: {one['msg']}" for one in error.errors()]
        raise argparse.ArgumentTypeError("; ".join(wrong)) from error


def main(arguments: list[str]) -> None:
    """Run the operator."""
    options = parser().parse_args(arguments)
    os.environ.setdefault(_USER, "tidegate")
    logs.configure(options.log_level, cast("Literal['text', 'json']", options.log_format))
    # The runtime configures its own loggers only; libraries log warnings.
    logging.getLogger("tidegate_operator").setLevel(options.log_level.upper())
    logging.getLogger("kopf").setLevel(logging.WARNING)
    operator = Operator(
        Options(
            image=options.image,
            namespace=options.namespace,
            watched=options.watch,
            resync_s=options.resync_s,
            workers=options.workers,
            upgrade_crd=not options.no_crd_upgrade,
            metrics_peers=options.metrics_peers,
            max_concurrent=options.rollout_max_concurrent,
            windows=options.maintenance_windows,
            admin_address=options.admin_address,
            admin_port=options.admin_port,
        )
    )
    kopf.run(
        registry=register(operator),
        # One replica: no peering with other instances.
        standalone=True,
        clusterwide=not options.watch,
        namespaces=options.watch,
    )


if __name__ == "__main__":
    main(sys.argv[1:])
