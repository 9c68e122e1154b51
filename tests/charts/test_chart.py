"""The chart: helm and Kubernetes accept it, and it asks for no right too many."""

from __future__ import annotations

import json
import runpy
import shutil
from pathlib import Path
from typing import Any

import pytest
import yaml

from support import helm, tools
from support.brokers import pick
from support.chart import CHART, VALUES, VALUES_IDS, made, operator, values, with_values
from tidegate_operator import handlers, names
from tidegate_operator.kube.client import PLURALS
from tidegate_operator.plan import MANAGED_KINDS, OPTIONAL_KINDS
from tidegate_operator.spec.problems import parse

ROOT = Path(__file__).parents[2]


@pytest.fixture
def home(tmp_path: Path) -> Path:
    return tmp_path


@pytest.mark.parametrize("file", [None, *VALUES], ids=["defaults", *VALUES_IDS])
def test_helm_accepts_the_chart(home: Path, file: Path | None) -> None:
    done = helm.run(home, "lint", "--strict", CHART, *with_values(file), check=False)
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.parametrize("version", ["1.28", "1.37"])
@pytest.mark.parametrize("file", [None, *VALUES], ids=["defaults", *VALUES_IDS])
def test_kubernetes_accepts_what_it_makes(home: Path, file: Path | None, version: str) -> None:
    try:
        import kubernetes_validate
    except ImportError:
        tools.missing("kubernetes-validate")
    found = made(home, file, "--kube-version", f"{version}.0")
    assert {"Deployment"} <= {one["kind"] for one in found}
    for one in found:
        if one["kind"] == names.KIND:
            assert parse(one["metadata"]["name"], one["spec"])
        elif one["kind"] != "ServiceMonitor":
            kubernetes_validate.validate(one, version, strict=True)


@pytest.mark.parametrize(
    ("values", "words"),
    [
        ("replicas=2", "replicas"),
        ("log.level=loud", "level"),
        ("image.digest=latest", "digest"),
        ("broker.name=Upper", "name"),
        ("watchNamespaces={A_B}", "watchNamespaces"),
        ("resyncSeconds=0", "resyncSeconds"),
        ("admin.port=80", "port"),
        ("serviceMonitor.interval=often", "interval"),
        ("extraEnv[0].value=x", "name"),
        ("livenessProbe.path=/", "path"),
        ("readinessProbe.periodSeconds=0", "periodSeconds"),
        ("podDisruptionBudget.maxUnavailable=2", "maxUnavailable"),
        ("topologySpreadConstraints[0].maxSkew=1", "topologyKey"),
    ],
)
def test_values_that_mean_nothing_are_refused(home: Path, values: str, words: str) -> None:
    done = helm.run(home, "template", "x", CHART, "--set", values, check=False)
    assert done.returncode != 0
    assert words in done.stderr


def test_old_clusters_are_refused(home: Path) -> None:
    done = helm.run(home, "template", "x", CHART, "--kube-version", "1.27.0", check=False)
    assert "incompatible with Kubernetes" in done.stderr


def test_every_value_is_described_and_has_a_default() -> None:
    schema = json.loads((CHART / "values.schema.json").read_text())
    defaults = yaml.safe_load((CHART / "values.yaml").read_text())

    # Helm's own, which charts are given that another one depends on.
    del schema["properties"]["global"]

    def check(part: dict[str, Any], value: Any, path: str) -> None:
        assert set(part["properties"]) == set(value), path
        for name, below in part["properties"].items():
            assert below.get("description"), f"{path}.{name}"
            if "properties" in below:
                assert below["additionalProperties"] is False
                check(below, value[name], f"{path}.{name}")

    check(schema, defaults, "")


def test_the_readme_and_the_schemas_descriptions_are_current() -> None:
    module = runpy.run_path(str(ROOT / "charts" / "readme.py"))
    for name, generate in (("README.md", "generate"), ("values.schema.json", "generate_schema")):
        committed = (CHART / name).read_text(encoding="utf-8")
        assert committed == module[generate](), "run: make chart-readme"


def test_a_comment_of_a_value_ends_before_its_example() -> None:
    comments = runpy.run_path(str(ROOT / "charts" / "readme.py"))["comments"]
    assert comments(
        "# About the file.\n"
        "\n"
        "# One\n# two.\n#\n#   first: [example]\nfirst: []\n"
        "second:\n  # Three.\n  first: 1\n  other: 2\n"
        "# Four.\nthird: x # not above it\n"
    ) == {"first": "One two.", "second.first": "Three.", "third": "Four."}


def test_what_is_shown_of_the_chart_is_current() -> None:
    chart = yaml.safe_load((CHART / "Chart.yaml").read_text())
    shown = {
        name.partition("/")[2]: text
        for name, text in chart["annotations"].items()
        if name.startswith("artifacthub.io/")
    }
    assert shown["operatorCapabilities"] in {
        *("basic install", "seamless upgrades", "full lifecycle", "deep insights", "auto pilot")
    }
    (image,) = yaml.safe_load(shown["images"])
    defaults = yaml.safe_load((CHART / "values.yaml").read_text())
    assert image["image"] == f"{defaults['image']['repository']}:{chart['appVersion']}"
    kinds = yaml.safe_load(shown["crds"])
    assert [(one["kind"], one["name"]) for one in kinds] == [
        (names.KIND, names.CRD_NAME),
        (names.BACKUP_KIND, names.BACKUP_CRD_NAME),
    ]
    kind = kinds[0]
    assert (kind["name"], kind["kind"], kind["version"]) == (
        names.CRD_NAME,
        names.KIND,
        names.VERSION,
    )
    for example in yaml.safe_load(shown["crdsExamples"]):
        assert parse(example["metadata"]["name"], example["spec"])


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ([], "kubectl apply"),
        (["broker.create=true"], "No client can connect to it yet"),
        (["broker.create=true", "watchNamespaces={iot}"], "the operator ignores that broker"),
        (["broker.create=true", "broker.spec.auth=null"], "No client can connect to it yet"),
        (["broker.create=true", "broker.spec=null"], "No client can connect to it yet"),
        (["serviceMonitor.create=true"], "Prometheus cannot reach the operator"),
        (["prometheusRule.create=true"], "the cluster has no PrometheusRule"),
        (
            ["broker.create=true", "broker.spec.console.enabled=true"],
            "kubectl get secret mqtt-console-token --namespace",
        ),
        (
            ["broker.create=true", "broker.spec.console.enabled=true"],
            "kubectl port-forward service/mqtt-console 18080:80 --namespace",
        ),
        (
            [
                "broker.create=true",
                "broker.spec.console.enabled=true",
                "broker.spec.console.tls.secretName=mine",
            ],
            "https://127.0.0.1:18080/#token=TOKEN:\n\n"
            "  kubectl port-forward service/mqtt-console 18080:443 --namespace",
        ),
    ],
)
def test_the_notes_say_what_comes_next(home: Path, settings: list[str], words: str) -> None:
    more = [part for setting in settings for part in ("--set", setting)]
    done = helm.run(home, "install", "x", CHART, "--dry-run=client", *more)
    notes = done.stdout.partition("NOTES:")[2]
    assert words in notes
    assert "helm test x" in notes


@pytest.mark.parametrize(
    "settings",
    [
        ["auth.allowAnonymous=true"],
        ["auth.passwords.secretName=users"],
        ["listeners[0].name=mqtt", "listeners[0].allowAnonymous=true"],
        ["listeners[0].name=mqtt", "listeners[0].tls.identityAsUsername=cn"],
    ],
    ids=lambda settings: settings[-1],
)
def test_the_notes_know_who_can_connect(home: Path, settings: list[str]) -> None:
    more = [part for one in settings for part in ("--set", f"broker.spec.{one}")]
    first = ("--dry-run=client", "--set", "broker.create=true")
    notes = helm.run(home, "install", "x", CHART, *first, *more).stdout.partition("NOTES:")[2]
    assert "Your broker:" in notes
    assert "No client can connect" not in notes
    assert "WARNING" not in notes


def test_the_notes_warn_only_of_a_prometheus_that_is_kept_out(home: Path) -> None:
    more = ("--set", "serviceMonitor.create=true")
    for setting in (
        "networkPolicy.create=false",
        "networkPolicy.metrics[0].namespaceSelector=null",
    ):
        done = helm.run(home, "install", "x", CHART, "--dry-run=client", *more, "--set", setting)
        assert "WARNING" not in done.stdout, setting


def above(home: Path, **dependency: str) -> Path:
    """Return a chart that depends on this one."""
    directory = home / "above"
    shutil.copytree(CHART, directory / "charts" / "tidegate")
    version = yaml.safe_load((CHART / "Chart.yaml").read_text())["version"]
    about = {
        "apiVersion": "v2",
        "name": "above",
        "version": "1.0.0",
        "dependencies": [{"name": "tidegate", "version": version, **dependency}],
    }
    (directory / "Chart.yaml").write_text(yaml.safe_dump(about))
    return directory


@pytest.mark.parametrize("major", [4, 3])
def test_another_chart_may_depend_on_it(home: Path, major: int) -> None:
    """Helm gives such charts a value of its own, ``global``, whether anybody has set it or not."""
    chart = above(home)
    done = helm.run(home, "template", "x", chart, "--set", "global.region=north", major=major)
    found = [one for one in yaml.safe_load_all(done.stdout) if one]
    assert pick(found, "Deployment", "x-tidegate")


@pytest.mark.parametrize("major", [4, 3])
def test_another_chart_may_leave_it_out(home: Path, major: int) -> None:
    """The condition is a value of this chart, and its schema refuses unknown ones."""
    chart = above(home, condition="tidegate.enabled")

    def kinds(*more: str) -> set[str]:
        done = helm.run(home, "template", "x", chart, "--include-crds", *more, major=major)
        return {one["kind"] for one in yaml.safe_load_all(done.stdout) if one}

    with_it = {"CustomResourceDefinition", "Deployment"}
    assert kinds() >= with_it
    assert kinds("--set", "tidegate.enabled=true") >= with_it
    assert kinds("--set", "tidegate.enabled=false") == set()


def test_nothing_is_installed_that_was_to_be_left_out(home: Path) -> None:
    for chart, value in ((CHART, "enabled=false"), (above(home), "tidegate.enabled=false")):
        done = helm.run(home, "template", "x", chart, "--set", value, check=False)
        assert done.returncode != 0
        assert "condition: tidegate.enabled" in done.stderr


@pytest.mark.parametrize("name", ["on", "null", "y", "1e3", "123"])
def test_names_that_yaml_takes_for_something_else_stay_names(home: Path, name: str) -> None:
    """They are good names of namespaces, releases and priority classes, and some of brokers."""
    broker = name if name.isalpha() else "mqtt"
    settings = {
        "broker.name": broker,
        "watchNamespaces": f"{{{name}}}",
        "priorityClassName": name,
        "serviceAccount.name": name,
        "serviceMonitor.create": "true",
        "networkPolicy.create": "true",
        "broker.create": "true",
    }
    more: list[str] = []
    for key, value in settings.items():
        more += ["--set" if value == "true" else "--set-string", f"{key}={value}"]
    done = helm.run(home, "template", name, CHART, "--namespace", name, *more)
    found = [one for one in yaml.safe_load_all(done.stdout) if one]
    for one in found:
        metadata = one["metadata"]
        assert isinstance(metadata["name"], str)
        if one["kind"] not in {"ClusterRole", "ClusterRoleBinding"}:
            assert metadata["namespace"] == name
        assert all(isinstance(value, str) for value in metadata["labels"].values())
        for subject in one.get("subjects", []):
            assert subject["namespace"] == name
            assert isinstance(subject["name"], str)
        for rule in one.get("rules", []):
            assert all(isinstance(each, str) for each in rule.get("resourceNames", []))
    pod = operator(found, f"{name}-tidegate")
    assert pod["priorityClassName"] == pod["serviceAccountName"] == name
    assert pick(found, "ServiceAccount", name)
    assert pick(found, names.KIND, broker)


# Rights


AGGREGATE = "rbac.authorization.k8s.io/aggregate-to-"


def aggregated(role: dict[str, Any]) -> set[str]:
    """Return which of the cluster's own roles a ClusterRole becomes a part of."""
    labels = role["metadata"]["labels"]
    return {key.removeprefix(AGGREGATE) for key in labels if key.startswith(AGGREGATE)}


def operators_roles(found: list[dict[str, Any]]) -> list[dict[str, Any]]:
    roles = (one for one in found if one["kind"] in {"Role", "ClusterRole"})
    return [one for one in roles if not aggregated(one)]


def rules_of(roles: list[dict[str, Any]]) -> set[tuple[str, str, str]]:
    """Return (API group, resource, verb) of everything that roles allow."""
    return {
        (group, resource, verb)
        for one in roles
        for rule in one["rules"]
        for group in rule["apiGroups"]
        for resource in rule["resources"]
        for verb in rule["verbs"]
    }


def test_rights_are_exactly_those_that_are_used(home: Path) -> None:
    """What ``kube`` and ``handlers`` ask of the API server, and nothing else."""
    wanted = {
        ("tidegate.io", "mqttbrokers", "get"),
        ("tidegate.io", "mqttbrokers", "list"),
        ("tidegate.io", "mqttbrokers", "watch"),
        ("tidegate.io", "mqttbrokers/status", "patch"),
        ("tidegate.io", "mqttbackups", "get"),
        ("tidegate.io", "mqttbackups", "list"),
        ("tidegate.io", "mqttbackups", "watch"),
        # Those of a schedule.
        ("tidegate.io", "mqttbackups", "create"),
        ("tidegate.io", "mqttbackups", "patch"),
        ("tidegate.io", "mqttbackups", "delete"),
        ("tidegate.io", "mqttbackups/status", "patch"),
        ("batch", "jobs", "get"),
        ("batch", "jobs", "list"),
        ("batch", "jobs", "watch"),
        ("batch", "jobs", "create"),
        ("batch", "jobs", "patch"),
        # The progress of a backup.
        ("", "pods/log", "get"),
        ("", "pods", "list"),
        ("", "pods", "watch"),
        ("", "pods", "patch"),
        # Pods of a replicated store are replaced one by one.
        ("", "pods", "delete"),
        ("", "events", "create"),
        # Why a StatefulSet makes no pod.
        ("", "events", "list"),
        # The store's volume grows.
        ("", "persistentvolumeclaims", "get"),
        ("", "persistentvolumeclaims", "patch"),
        ("apiextensions.k8s.io", "customresourcedefinitions", "get"),
        ("apiextensions.k8s.io", "customresourcedefinitions", "patch"),
        ("apiextensions.k8s.io", "customresourcedefinitions", "create"),
        # The volume of the bundled store grows.
        ("", "persistentvolumeclaims", "get"),
        ("", "persistentvolumeclaims", "patch"),
    }
    for api_version, kind in (*MANAGED_KINDS, *OPTIONAL_KINDS):
        group = api_version.rpartition("/")[0]
        verbs = {"get", "list", "create", "patch", "delete"}
        if (api_version, kind) in handlers.WATCHED_KINDS:
            verbs.add("watch")
        wanted |= {(group, PLURALS[kind], verb) for verb in verbs}
    assert rules_of(operators_roles(made(home))) == wanted


def test_only_its_own_definitions_may_be_patched(home: Path) -> None:
    (role,) = operators_roles(made(home))
    (rule,) = (one for one in role["rules"] if one["apiGroups"] == ["apiextensions.k8s.io"])
    assert rule["resourceNames"] == [names.CRD_NAME, names.BACKUP_CRD_NAME]


def test_with_namespaces_there_are_no_rights_elsewhere(home: Path) -> None:
    found = made(home, values("namespaces"))
    kinds = [one["kind"] for one in found]
    assert "ClusterRole" not in kinds
    roles = {one["metadata"]["namespace"] for one in found if one["kind"] == "Role"}
    assert roles == {"iot", "factory"}
    for binding in (one for one in found if one["kind"] == "RoleBinding"):
        assert binding["subjects"] == [
            {"kind": "ServiceAccount", "name": "mine", "namespace": "system"}
        ]
    found = made(home, values("everything"))
    (role,) = (one for one in operators_roles(found) if one["kind"] == "ClusterRole")
    assert [rule["resources"] for rule in role["rules"]] == [["customresourcedefinitions"]]


def test_rights_may_come_from_elsewhere(home: Path) -> None:
    kinds = {one["kind"] for one in made(home, values("no-rights"))}
    assert not {kind for kind in kinds if "Role" in kind}


def test_users_rights_are_parts_of_the_clusters_roles(home: Path) -> None:
    """Whether they have that effect is seen in tests/kube."""
    roles = [one for one in made(home) if one["kind"] == "ClusterRole" and aggregated(one)]
    assert [aggregated(one) for one in roles] == [{"view", "edit", "admin"}, {"edit", "admin"}]
    reading, writing = (rules_of([one]) for one in roles)
    assert {verb for _, _, verb in reading} == {"get", "list", "watch"}
    assert {resource for _, resource, _ in writing} == {
        "mqttbrokers",
        "mqttbrokers/scale",
        "mqttbackups",
    }
    assert {group for group, _, _ in reading | writing} == {"tidegate.io"}
    found = made(home, None, "--set", "rbac.aggregate=false")
    assert not [one for one in found if one["kind"] == "ClusterRole" and aggregated(one)]


def test_prometheus_is_admitted_on_request(home: Path) -> None:
    assert "ServiceMonitor" not in {one["kind"] for one in made(home)}
    found = made(home, values("everything"))
    monitor = pick(found, "ServiceMonitor", "tidegate")
    assert monitor["metadata"]["labels"]["release"] == "prometheus"
    (endpoint,) = monitor["spec"]["endpoints"]
    service = pick(found, "Service", "tidegate")
    assert endpoint["port"] == service["spec"]["ports"][0]["name"]
    selected = monitor["spec"]["selector"]["matchLabels"]
    assert selected.items() <= service["metadata"]["labels"].items()
    policy = pick(found, "NetworkPolicy", "tidegate")["spec"]
    labels = pick(found, "Deployment", "tidegate")["spec"]["template"]["metadata"]["labels"]
    assert policy["podSelector"]["matchLabels"].items() <= labels.items()
    (rule,) = policy["ingress"]
    assert [port["port"] for port in rule["ports"]] == [9090]
    assert rule["from"][1:] == [
        {"namespaceSelector": {"matchLabels": {"kubernetes.io/metadata.name": "monitoring"}}}
    ]


def test_the_admin_port_is_closed_to_the_cluster(home: Path) -> None:
    """But for the pod of ``helm test``."""
    found = made(home)
    (rule,) = pick(found, "NetworkPolicy", "tidegate")["spec"]["ingress"]
    (peer,) = rule["from"]
    labels = pick(found, "Pod", "tidegate-test")["metadata"]["labels"]
    assert peer["podSelector"]["matchLabels"].items() <= labels.items()
    found = made(home, None, "--set", "networkPolicy.create=false")
    assert "NetworkPolicy" not in {one["kind"] for one in found}


def test_there_is_never_more_than_one_operator(home: Path) -> None:
    spec = pick(made(home), "Deployment", "tidegate")["spec"]
    assert spec["replicas"] == 1
    assert spec["strategy"] == {"type": "Recreate"}


def test_labels_of_the_user_come_beside_ours_and_never_in_their_place(home: Path) -> None:
    found = made(home, None, "--set", "podLabels.app\\.kubernetes\\.io/component=mine")
    labels = pick(found, "Deployment", "tidegate")["spec"]["template"]["metadata"]["labels"]
    assert labels[names.COMPONENT_LABEL] == "operator"
    found = made(home, values("everything"))
    labels = pick(found, "Deployment", "tidegate")["spec"]["template"]["metadata"]["labels"]
    assert labels["example.com/b"] == "2"


def test_brokers_let_the_operator_in(home: Path) -> None:
    """Their NetworkPolicies name it by this label."""
    template = pick(made(home), "Deployment", "tidegate")["spec"]["template"]
    assert template["metadata"]["labels"][names.COMPONENT_LABEL] == "operator"


def test_names_follow_from_the_release(home: Path) -> None:
    done = helm.run(home, "template", "a" * 53, CHART)
    for one in yaml.safe_load_all(done.stdout):
        if one:
            # Roles are the only objects whose names are no labels of DNS.
            limit = 253 if one["kind"].startswith("ClusterRole") else 63
            assert len(one["metadata"]["name"]) <= limit
            for value in one["metadata"]["labels"].values():
                assert len(value) <= 63


# A first broker


def test_a_first_broker_is_made_on_request(home: Path) -> None:
    assert names.KIND not in {one["kind"] for one in made(home)}
    broker = pick(made(home, values("broker")), names.KIND, "first")
    assert broker["apiVersion"] == names.API_VERSION
    found = made(home, None, "--set", "broker.create=true")
    assert parse("mqtt", pick(found, names.KIND, "mqtt")["spec"])


def test_the_definition_comes_with_the_chart(home: Path) -> None:
    found = made(home, None, "--include-crds")
    assert pick(found, "CustomResourceDefinition", names.CRD_NAME)


def test_the_chart_can_be_packed(home: Path) -> None:
    helm.run(home, "package", CHART, "--destination", home)
    assert list(home.glob("tidegate-*.tgz"))
