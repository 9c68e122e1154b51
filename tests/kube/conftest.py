"""The operator and the chart against a real API server; pods are fakes, everything else is real.

One control plane, one node and one installed operator serve a whole test process: they cost about
ten seconds. Tests take a namespace each (``space``). A test that needs another operator ends the
common one first (``operator_away``). After every test the operator's log must be free of failures,
and no right must have been missing.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterator
from pathlib import Path

import pytest

from support.kube import binaries
from support.kube.control_plane import ControlPlane
from support.kube.fake_kubelet import FakeKubelet
from support.kube.kubectl import Kubectl
from support.kube.operator_process import CHART, OperatorProcess
from support.kube.space import DEADLINE_S, Space
from support.waiting import wait_for
from tidegate_operator.names import BACKUP_CRD_NAME, CRD_NAME

_SHOWN = 6000
_SHOWN_OF_PLANE = 1500
_planes: list[ControlPlane] = []
_operators: list[OperatorProcess] = []


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark the tests of this directory; give the first one the time to build Kubernetes in CI."""
    here = Path(__file__).parent
    build_s = 0 if binaries.is_built() or not binaries.may_build() else binaries.BUILD_TIMEOUT_S
    for item in items:
        if item.path.is_relative_to(here):
            item.add_marker(pytest.mark.kube)
            if item.get_closest_marker("timeout") is None or build_s:
                item.add_marker(pytest.mark.timeout(180 + build_s))


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(
    item: pytest.Item,
) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """Add what the operator and the control plane have written to a failed test's report."""
    report = yield
    if report.failed:
        for operator in _operators:
            title = f"operator of {operator.namespace}"
            report.sections.append((title, operator.log_text()[-_SHOWN:]))
        for plane in _planes:
            report.sections += plane.logs(_SHOWN_OF_PLANE).items()
    return report


@pytest.fixture(scope="session")
def plane(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ControlPlane]:
    """Yield etcd, kube-apiserver and kube-controller-manager."""
    crds = sorted((CHART / "crds").glob("*.yaml"))
    with ControlPlane(tmp_path_factory.mktemp("plane"), crds) as started:
        _planes.append(started)
        yield started
        _planes.remove(started)


@pytest.fixture(scope="session")
def kubelet(plane: ControlPlane) -> Iterator[FakeKubelet]:
    """Yield the node on which all pods run."""
    with FakeKubelet(plane.url, plane.authority, plane.kubelet_token) as started:
        yield started
    assert not started.errors


@pytest.fixture(scope="session")
def kubectl(plane: ControlPlane, tmp_path_factory: pytest.TempPathFactory) -> Kubectl:
    """Return kubectl as the cluster's admin."""
    return Kubectl(plane.kubeconfig("kubectl"), tmp_path_factory.mktemp("kubectl"))


@pytest.fixture(scope="session")
def installed(
    plane: ControlPlane, kubelet: FakeKubelet, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[OperatorProcess]:
    """Yield the common operator: installed with helm, for all namespaces, running or not."""
    operator = OperatorProcess(plane, tmp_path_factory.mktemp("operator"), "tidegate-system")
    _operators.append(operator)
    operator.install({"resyncSeconds": 5})
    yield operator
    if operator.is_running:
        operator.stop()
    _operators.remove(operator)


@pytest.fixture
def operator(installed: OperatorProcess) -> Iterator[OperatorProcess]:
    """Yield the common operator, running; the test may end and start it."""
    if not installed.is_running:
        installed.start()
    yield installed
    installed.check()


@pytest.fixture
def operator_away(installed: OperatorProcess) -> OperatorProcess:
    """Return the common operator after it has been ended; the next test starts it again."""
    if installed.is_running:
        installed.stop()
    return installed


@pytest.fixture
def space(plane: ControlPlane) -> Iterator[Space]:
    """Yield a namespace of the test's own."""
    one = Space(plane.api)
    yield one
    one.delete()


@pytest.fixture
def other_space(plane: ControlPlane) -> Iterator[Space]:
    """Yield one more namespace."""
    one = Space(plane.api, "other")
    yield one
    one.delete()


@pytest.fixture(scope="session")
def spare_plane(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ControlPlane]:
    """Yield a cluster where nothing is installed, for tests that care for all that is in it."""
    with ControlPlane(tmp_path_factory.mktemp("spare")) as started:
        _planes.append(started)
        yield started
        _planes.remove(started)


@pytest.fixture(scope="session")
def spare_kubelet(spare_plane: ControlPlane) -> Iterator[FakeKubelet]:
    """Yield the spare cluster's node."""
    with FakeKubelet(spare_plane.url, spare_plane.authority, spare_plane.kubelet_token) as started:
        yield started
    assert not started.errors


@pytest.fixture(scope="session")
def spare_kubectl(spare_plane: ControlPlane, tmp_path_factory: pytest.TempPathFactory) -> Kubectl:
    """Return kubectl as the spare cluster's admin."""
    return Kubectl(spare_plane.kubeconfig("kubectl"), tmp_path_factory.mktemp("spare-kubectl"))


@pytest.fixture
def release_of(
    spare_plane: ControlPlane, spare_kubelet: FakeKubelet, tmp_path: Path
) -> Iterator[Callable[..., OperatorProcess]]:
    """Yield what makes releases of a chart, not installed yet, by namespace; at the end they and
    the definitions go, and with them all brokers."""
    made: list[OperatorProcess] = []

    def make(namespace: str, chart: Path = CHART) -> OperatorProcess:
        made.append(OperatorProcess(spare_plane, tmp_path / namespace, namespace, chart=chart))
        _operators.append(made[-1])
        return made[-1]

    yield make
    for operator in made:
        if operator.is_running:
            operator.stop()
        operator.helm("uninstall", operator.release, "--namespace", operator.namespace, check=False)
    api = spare_plane.api
    for name in (CRD_NAME, BACKUP_CRD_NAME):
        api.delete("CustomResourceDefinition", name)
    wait_for(
        lambda: (
            not any(
                api.get("CustomResourceDefinition", name) for name in (CRD_NAME, BACKUP_CRD_NAME)
            )
        ),
        DEADLINE_S,
        "they have gone",
    )
    for operator in made:
        operator.check()
        _operators.remove(operator)


@pytest.fixture
def spare_space(spare_plane: ControlPlane, spare_kubelet: FakeKubelet) -> Iterator[Space]:
    """Yield a namespace of the spare cluster."""
    one = Space(spare_plane.api)
    yield one
    one.delete()


@pytest.fixture(scope="module")
def space_of_module(plane: ControlPlane) -> Iterator[Space]:
    """Yield a namespace that a module's tests share."""
    one = Space(plane.api, "shared")
    yield one
    one.delete()
