"""The bundle for the Operator Lifecycle Manager, made from what the chart renders.

Deployment, Service and permissions are the chart's, with three differences: OLM installs and
upgrades the CRD, so ``crd.upgrade`` is off; many of its versions refuse bundles with a
NetworkPolicy; and users and groups are left to the cluster, as OpenShift wants it (the image has a
numeric user).
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, Final

import yaml

from release.versions import CHART

PACKAGE: Final = "tidegate"
CHANNEL: Final = "stable"
#: What OLM decides: the chart is rendered with these values.
VALUES: Final = ("crd.upgrade=false", "networkPolicy.create=false")

Object = dict[str, Any]

#: Kinds of the chart that OLM applies as they are.
_PLAIN: Final = ("Service", "PodDisruptionBudget")
#: Kinds of the chart that are in the bundle. OLM makes service accounts, bindings, and roles for
#: users of the CRD (view, edit, admin) by itself.
_HANDLED: Final = {"Deployment", "ServiceAccount", "ClusterRole", "ClusterRoleBinding"} | set(
    _PLAIN
)
_IDENTITY: Final = frozenset({"runAsUser", "runAsGroup", "fsGroup", "supplementalGroups"})
_LABELS_OF_HELM: Final = frozenset({"helm.sh/chart", "app.kubernetes.io/managed-by"})
_ANNOTATIONS: Final = {
    "operators.operatorframework.io.bundle.mediatype.v1": "registry+v1",
    "operators.operatorframework.io.bundle.manifests.v1": "manifests/",
    "operators.operatorframework.io.bundle.metadata.v1": "metadata/",
    "operators.operatorframework.io.bundle.package.v1": PACKAGE,
    "operators.operatorframework.io.bundle.channels.v1": CHANNEL,
    "operators.operatorframework.io.bundle.channel.default.v1": CHANNEL,
}
_DESCRIPTION: Final = """\
Tidegate is an MQTT 3.1, 3.1.1 and 5.0 broker made for Kubernetes. Edges terminate TCP, TLS,
WebSocket and secure WebSocket, routers decide where messages go, and all state is in Redis or
Valkey. The operator makes them from an `MqttBroker`, and applies users, ACLs, listeners and
certificates to running pods.
"""


def write(
    rendered: Iterable[Object],
    directory: Path,
    version: str,
    image: str,
    platforms: Iterable[str] = ("linux/amd64",),
) -> None:
    """Write a bundle. ``rendered``: the chart's objects; ``image``: the operator's, by digest."""
    objects = list(rendered)
    left_out = {one["kind"] for one in objects if not _is_hook(one)} - _HANDLED
    if left_out:
        raise ValueError(f"the bundle has no place for {', '.join(sorted(left_out))} of the chart")
    definitions = [
        yaml.safe_load(file.read_text(encoding="utf-8"))
        for file in sorted((CHART / "crds").glob("*.yaml"), reverse=True)
    ]
    files: dict[str, Any] = {
        "manifests/tidegate.clusterserviceversion.yaml": cluster_service_version(
            objects, definitions, version, image, platforms
        ),
        **{
            f"manifests/{definition['metadata']['name']}.crd.yaml": definition
            for definition in definitions
        },
        "metadata/annotations.yaml": {"annotations": _ANNOTATIONS},
    }
    for kind in _PLAIN:
        for one in _of_kind(objects, kind):
            name = f"manifests/{one['metadata']['name']}.{kind.lower()}.yaml"
            files[name] = _without_helm(one)
    for name, content in files.items():
        file = directory / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(yaml.safe_dump(content, sort_keys=False, width=100), encoding="utf-8")
    labels = "".join(f"LABEL {key}={value}\n" for key, value in _ANNOTATIONS.items())
    copies = "COPY manifests /manifests/\nCOPY metadata /metadata/\n"
    (directory / "bundle.Dockerfile").write_text(f"FROM scratch\n{labels}{copies}", "utf-8")


def cluster_service_version(
    objects: list[Object],
    definitions: list[Object],
    version: str,
    image: str,
    platforms: Iterable[str],
) -> Object:
    """Return the ClusterServiceVersion."""
    (deployment,) = _of_kind(objects, "Deployment")
    chart = yaml.safe_load((CHART / "Chart.yaml").read_text(encoding="utf-8"))
    examples = yaml.safe_load(chart["annotations"]["artifacthub.io/crdsExamples"])
    return {
        "apiVersion": "operators.coreos.com/v1alpha1",
        "kind": "ClusterServiceVersion",
        "metadata": {
            "name": f"{PACKAGE}.v{version}",
            "namespace": "placeholder",
            "annotations": {
                "alm-examples": json.dumps(examples, indent=2),
                "capabilities": "Seamless Upgrades",
                "categories": "Streaming & Messaging",
                "containerImage": image,
                "description": chart["description"],
                "olm.skipRange": skip_range(version),
                "support": "the Tidegate project",
            },
            "labels": {
                "operatorframework.io/os.linux": "supported",
                **{
                    f"operatorframework.io/arch.{platform.split('/')[1]}": "supported"
                    for platform in platforms
                },
            },
        },
        "spec": {
            "displayName": "Tidegate",
            "description": _DESCRIPTION,
            "version": version,
            "maturity": "alpha",
            "minKubeVersion": "1.28.0",
            "keywords": chart["keywords"],
            "provider": {"name": "The Tidegate project"},
            "installModes": [
                {"type": mode, "supported": mode == "AllNamespaces"}
                for mode in ("OwnNamespace", "SingleNamespace", "MultiNamespace", "AllNamespaces")
            ],
            "customresourcedefinitions": {
                "owned": [_owned(definition, chart) for definition in definitions]
            },
            "relatedImages": [{"name": "tidegate", "image": image}],
            "install": {
                "strategy": "deployment",
                "spec": {
                    "deployments": [_deployment(deployment)],
                    "clusterPermissions": permissions(objects),
                },
            },
        },
    }


def skip_range(version: str) -> str:
    """Return which versions this one replaces: neighbouring minor versions work together."""
    major, minor, _ = map(int, version.split("."))
    return f">={major}.{max(minor - 1, 0)}.0 <{version}"


def permissions(objects: list[Object]) -> list[Object]:
    """Return the rules that the chart binds to the operator's service account."""
    (deployment,) = _of_kind(objects, "Deployment")
    account = deployment["spec"]["template"]["spec"]["serviceAccountName"]
    roles = {one["metadata"]["name"]: one for one in _of_kind(objects, "ClusterRole")}
    rules = [
        rule
        for binding in _of_kind(objects, "ClusterRoleBinding")
        if any(subject["name"] == account for subject in binding["subjects"])
        for rule in roles[binding["roleRef"]["name"]]["rules"]
    ]
    return [{"serviceAccountName": account, "rules": rules}]


def _deployment(deployment: Object) -> Object:
    metadata = _without_helm(deployment)["metadata"]
    spec = json.loads(json.dumps(deployment["spec"]))
    template = spec["template"]
    template["metadata"]["labels"] = _without(template["metadata"]["labels"], _LABELS_OF_HELM)
    pod = template["spec"]
    pod["securityContext"] = _without(pod.get("securityContext") or {}, _IDENTITY)
    for container in pod["containers"]:
        context = container.get("securityContext") or {}
        container["securityContext"] = _without(context, _IDENTITY)
    return {"name": metadata["name"], "label": metadata["labels"], "spec": spec}


def _owned(definition: Object, chart: Object) -> Object:
    kind = definition["spec"]["names"]["kind"]
    described = yaml.safe_load(chart["annotations"]["artifacthub.io/crds"])
    (shown,) = (one for one in described if one["kind"] == kind)
    (version,) = (one["name"] for one in definition["spec"]["versions"] if one["storage"])
    return {
        "name": definition["metadata"]["name"],
        "kind": kind,
        "version": version,
        "displayName": shown["displayName"],
        "description": shown["description"],
    }


def _of_kind(objects: Iterable[Object], kind: str) -> list[Object]:
    return [one for one in objects if one["kind"] == kind and not _is_hook(one)]


def _is_hook(one: Object) -> bool:
    return "helm.sh/hook" in (one["metadata"].get("annotations") or {})


def _without_helm(one: Object) -> Object:
    metadata = _without(one["metadata"], {"namespace"})
    metadata["labels"] = _without(metadata.get("labels", {}), _LABELS_OF_HELM)
    return {**one, "metadata": metadata}


def _without(values: Mapping[str, Any], keys: Iterable[str]) -> Object:
    left_out = set(keys)
    return {key: value for key, value in values.items() if key not in left_out}
