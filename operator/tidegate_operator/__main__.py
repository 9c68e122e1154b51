"""``python -m tidegate_operator``: runs the operator until SIGTERM."""

from __future__ import annotations

import argparse
import logging
import os
import sys
from typing import Literal, cast

import kopf

from tidegate.runtime.telemetry import log as logs
from tidegate_operator.handlers import Operator, Options, register

#: kopf asks the system for a user's name, which a container's user may not have.
_USER = "LOGNAME"


def parser() -> argparse.ArgumentParser:
    """Return the parser of the command line; the chart's values are its flags."""
    found = argparse.ArgumentParser("tidegate_operator", description="Serve MqttBrokers.")
    add = found.add_argument
    add("--image", required=True, help="image of brokers that do not name one")
    add("--namespace", default="tidegate-system", help="where the operator itself runs")
    add("--watch", action="append", default=[], metavar="NAMESPACE", help="serve only this one")
    add("--resync-s", type=float, default=60.0, help="how often everything is looked at again")
    add("--workers", type=int, default=8, help="brokers that are worked on at the same time")
    add("--no-crd-upgrade", action="store_true", help="leave the CRD alone")
    add("--log-level", default="info", choices=["debug", "info", "warning", "error"])
    add("--log-format", default="json", choices=["json", "text"])
    add("--admin-address", default="*", help="of health and metrics; *: all, IPv4 and IPv6")
    add("--admin-port", type=int, default=8080, help="of health and metrics")
    return found


def main(arguments: list[str]) -> None:
    """Run."""
    given = parser().parse_args(arguments)
    os.environ.setdefault(_USER, "tidegate")
    logs.configure(given.log_level, cast("Literal['text', 'json']", given.log_format))
    # Ours are not below the runtime's logger, and libraries are kept to warnings.
    logging.getLogger("tidegate_operator").setLevel(given.log_level.upper())
    logging.getLogger("kopf").setLevel(logging.WARNING)
    operator = Operator(
        Options(
            image=given.image,
            namespace=given.namespace,
            watched=given.watch,
            resync_s=given.resync_s,
            workers=given.workers,
            upgrade_crd=not given.no_crd_upgrade,
            admin_address=given.admin_address,
            admin_port=given.admin_port,
        )
    )
    kopf.run(
        registry=register(operator),
        # One replica, so there is nobody to agree with.
        standalone=True,
        clusterwide=not given.watch,
        namespaces=given.watch,
    )


if __name__ == "__main__":
    main(sys.argv[1:])
