"""All examinations of one role, in the order in which a person reads them.

Called by the command line.
"""

from __future__ import annotations

from tidegate.doctor.certificates import examine_certificates
from tidegate.doctor.clocks import examine_clocks
from tidegate.doctor.configuration import examine_configuration
from tidegate.doctor.files import examine_files
from tidegate.doctor.findings import Finding
from tidegate.doctor.limits import examine_limits
from tidegate.doctor.names import examine_names
from tidegate.doctor.ports import examine_ports
from tidegate.doctor.store import examine_store
from tidegate.runtime.config.config_file import Role
from tidegate.runtime.config.model import Config


def role_of(config: Config) -> Role:
    """Return the role that a configuration is for, as far as it says so."""
    if config.link.routers:
        return "edge"
    is_router = "listen" in config.link.model_fields_set and not config.listeners
    return "router" if is_router and config.store.url is not None else "serve"


def examine(config: Config, role: Role, said: list[str]) -> list[Finding]:
    """Return all findings. ``said``: a sentence for each setting from the environment."""
    found = [*examine_configuration(config, role, said), *examine_files(config, role)]
    found += examine_certificates(config)
    facts = None
    if role != "edge":
        about_store, facts = examine_store(config)
        found += about_store
    found += examine_ports(config, role)
    found += examine_names(config, role)
    found += examine_clocks(None if facts is None else facts.clock_ahead_s)
    found += examine_limits(config, role)
    return found
