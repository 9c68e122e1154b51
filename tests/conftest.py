"""What every test may ask for: a running broker, certificates, and marks by directory.

``--broker mosquitto`` (or ``TIDEGATE_TEST_BROKER=mosquitto``) plays the tests that use ``broker``
against Debian's mosquitto, to learn whether a test that fails is wrong or the broker is.
"""

from __future__ import annotations

import contextlib
import os
import tempfile
from collections.abc import AsyncIterator, Callable, Generator, Iterator, Mapping
from pathlib import Path
from typing import Any

import hypothesis
import pytest

from support.broker import Server, Settings, StartBroker, Tidegate, all_listeners
from support.certificates import Certificates
from support.mosquitto import Mosquitto
from support.raw_client import RawClient
from tidegate.runtime.process.parent import exit_with_parent

_MARK_OF_DIRECTORY = {
    "integration": pytest.mark.integration,
    "conformance": pytest.mark.conformance,
    "outside": pytest.mark.outside,
}
_STDERR_SHOWN = 20_000

# A broker of a test has no console unless the test asks for one: it is one more process for each,
# and all would use the same port.
os.environ["TIDEGATE_CONSOLE__ENABLED"] = "false"

# How long an example takes says how busy the machine is, and nothing about us.
hypothesis.settings.register_profile("ours", deadline=None)
hypothesis.settings.load_profile("ours")

# Brokers that run now; a failed test's report shows what each wrote to standard error.
_running: list[Server] = []


def pytest_addoption(parser: pytest.Parser) -> None:
    """Add the choice of the broker under test."""
    parser.addoption(
        "--broker",
        choices=["tidegate", "mosquitto"],
        default=os.environ.get("TIDEGATE_TEST_BROKER", "tidegate"),
        help="which broker the fixture `broker` starts",
    )


def pytest_configure(config: pytest.Config) -> None:
    """Have a worker of pytest-xdist end with the run, as all ends that it starts."""
    if hasattr(config, "workerinput"):
        exit_with_parent(os.getppid())


def pytest_make_parametrize_id(config: pytest.Config, val: object, argname: str) -> str | None:
    """Name a test by what a value is, not by its bytes: random ones differ between workers."""
    if isinstance(val, bytes) and not (val.isascii() and val.decode("ascii").isprintable()):
        return f"{argname}-of-{len(val)}-bytes"
    return None


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark tests by the directory they live in."""
    root = Path(__file__).parent
    for item in items:
        if item.path.is_relative_to(root):
            mark = _MARK_OF_DIRECTORY.get(item.path.relative_to(root).parts[0])
            if mark is not None:
                item.add_marker(mark)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(
    item: pytest.Item,
) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """Add the running brokers' standard error to the report of a failed test."""
    report = yield
    if report.failed:
        for server in _running:
            title = f"stderr of {server.product} while {item.name} failed"
            report.sections.append((title, server.stderr()[-_STDERR_SHOWN:]))
    return report


@contextlib.contextmanager
def _started(make: Callable[[Path], Server]) -> Iterator[Server]:
    # Short, because the path of a Unix socket has about a hundred bytes.
    with tempfile.TemporaryDirectory(prefix="tg-", ignore_cleanup_errors=True) as name:
        server = make(Path(name).resolve())
        _running.append(server)
        try:
            server.start()
            yield server
        finally:
            _running.remove(server)
            server.cleanup()


def default_settings(directory: Path, certificates: Certificates) -> Settings:
    """Return a configuration with a listener of every kind that lets anybody in."""
    return {
        "listeners": all_listeners(directory, certificates.server, certificates.authority),
        "auth": {"allow_anonymous": True},
        "store": {"data_dir": str(directory / "data")},
        "admin": {"port": 0},
    }


@pytest.fixture(scope="session")
def certificates(tmp_path_factory: pytest.TempPathFactory) -> Certificates:
    """Certificates of this run."""
    return Certificates(tmp_path_factory.mktemp("certificates"))


@pytest.fixture(scope="module")
def broker(request: pytest.FixtureRequest, certificates: Certificates) -> Iterator[Server]:
    """Yield a broker with a listener of every kind that lets anybody in, one for the module."""

    def make(directory: Path) -> Server:
        if request.config.getoption("--broker") == "mosquitto":
            return Mosquitto(directory, certificates.server, certificates.authority)
        return Tidegate(directory, default_settings(directory, certificates), [])

    with _started(make) as server:
        yield server


@pytest.fixture
def start_broker(certificates: Certificates) -> Iterator[StartBroker]:
    """Yield a function that starts brokers of this test's own; all end with the test."""
    with contextlib.ExitStack() as stack:

        def start(
            *arguments: str, environment: Mapping[str, str] | None = None, **settings: Any
        ) -> Tidegate:
            def make(directory: Path) -> Server:
                defaults = default_settings(directory, certificates)
                return Tidegate(directory, defaults | settings, list(arguments), environment)

            server = stack.enter_context(_started(make))
            assert isinstance(server, Tidegate)
            return server

        yield start


@pytest.fixture
async def no_connection_is_left() -> AsyncIterator[None]:
    """Reset the raw clients that the test leaves open, before its event loop ends."""
    yield
    await RawClient.reset_all()
