"""A real etcd, kube-apiserver and kube-controller-manager on loopback: ready within seconds.

TLS is verified, RBAC is on, admission is what Kubernetes has by default, and every request is in an
audit log that tests may count. There is no node, no scheduler and no container: see
``fake_kubelet``. ``ControlPlane`` is a context manager; logs go to its directory.
"""

from __future__ import annotations

import json
import secrets
import shutil
import subprocess
from collections.abc import Sequence
from pathlib import Path
from typing import Final

import yaml
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec

from support import processes, tools
from support.certificates import Authority
from support.kube import binaries
from support.kube.api import Api, Object, Refused
from support.kube.audit import AuditLog
from support.ports import free_port
from support.waiting import wait_for

READY_S: Final = 60.0
SERVICE_RANGE: Final = "10.96.0.0/16"
ISSUER: Final = "https://kubernetes.default.svc"

ADMIN: Final = "test-admin"
CONTROLLERS: Final = "system:kube-controller-manager"
KUBELET: Final = "fake-kubelet"

#: Where kube-controller-manager makes volumes; that cannot be changed.
_VOLUMES: Final = Path("/tmp/hostpath_pv")
#: What needs nodes, clouds or hours.
_WITHOUT: Final = (
    "node-lifecycle-controller",
    "node-ipam-controller",
    "taint-eviction-controller",
    "device-taint-eviction-controller",
    "persistentvolume-attach-detach-controller",
    "persistentvolume-expander-controller",
    "daemonset-controller",
    # Endpoints may not be loopback addresses, and those of the fake node are.
    "endpoints-controller",
    "endpointslice-controller",
    "endpointslice-mirroring-controller",
    "cronjob-controller",
    "ttl-controller",
    "certificatesigningrequest-approving-controller",
    "certificatesigningrequest-cleaner-controller",
    "certificatesigningrequest-signing-controller",
    "podcertificaterequest-cleaner-controller",
    "storage-version-migrator-controller",
    "storageversion-garbage-collector-controller",
)
#: Who is written down: reads of the control plane itself would fill the log.
_AUDIT_POLICY: Final[Object] = {
    "apiVersion": "audit.k8s.io/v1",
    "kind": "Policy",
    "omitStages": ["RequestReceived"],
    "rules": [
        {"level": "None", "users": ["system:apiserver", CONTROLLERS, KUBELET, "system:anonymous"]},
        {"level": "None", "userGroups": ["system:serviceaccounts:kube-system"]},
        {"level": "None", "users": [ADMIN], "verbs": ["get", "list", "watch"]},
        {"level": "Metadata", "resources": [{"group": "", "resources": ["secrets"]}]},
        {"level": "Request", "verbs": ["create", "update", "patch", "delete"]},
        {"level": "Metadata"},
    ],
}


class ControlPlane:
    """See the module's docstring. ``api`` may do everything; ``audit`` is what has happened."""

    def __init__(self, directory: Path, crds: Sequence[Path] = ()) -> None:
        self.directory = directory
        self._crds = crds
        self._programs: dict[str, subprocess.Popen[bytes]] = {}
        self._commands: dict[str, list[str]] = {}
        self._tokens = {name: secrets.token_hex(16) for name in (ADMIN, CONTROLLERS, KUBELET)}
        self.authority = directory / "authority" / "authority.pem"
        self.url = ""
        self.audit = AuditLog(directory / "audit.log")

    def __enter__(self) -> ControlPlane:
        try:
            self.start()
        except BaseException:
            self.stop()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def start(self) -> None:
        """Start everything, and wait until it answers.

        The garbage collector learns of new kinds only twice a minute, so the definitions of
        ``crds`` are there before it begins.
        """
        programs = binaries.programs()
        etcd = tools.require("etcd")
        store = f"http://127.0.0.1:{free_port()}"
        self._run("etcd", [etcd, *_etcd_arguments(self.directory / "etcd", store)])
        self._write_files()
        port = free_port()
        self.url = f"https://127.0.0.1:{port}"
        self.api = Api(self.url, self.authority, self._tokens[ADMIN], "test")
        self._run(
            "kube-apiserver",
            [str(programs / "kube-apiserver"), *self._api_server_arguments(store, port)],
        )
        wait_for(self._is_ready, READY_S, "the API server is ready")
        for file in self._crds:
            self.api.create(yaml.safe_load(file.read_text()))
        self._run(
            "kube-controller-manager",
            [str(programs / "kube-controller-manager"), *self._controller_arguments()],
        )
        self.api.create(
            {
                "apiVersion": "storage.k8s.io/v1",
                "kind": "StorageClass",
                "metadata": {
                    "name": "standard",
                    "annotations": {"storageclass.kubernetes.io/is-default-class": "true"},
                },
                "provisioner": "kubernetes.io/host-path",
                "reclaimPolicy": "Delete",
            }
        )
        wait_for(
            lambda: self.api.get("ServiceAccount", "default", "default"),
            READY_S,
            "the controllers work",
        )

    def stop(self) -> None:
        """End everything that was started; nobody needs its state any more."""
        self._remove_volumes()
        for program in self._programs.values():
            program.kill()
        for program in self._programs.values():
            program.wait()
        self._programs.clear()
        if self.url:
            self.api.close()

    def _remove_volumes(self) -> None:
        """Remove the directories that kube-controller-manager has made for claims."""
        try:
            volumes = (
                self.api.listed("PersistentVolume") if "kube-apiserver" in self._programs else []
            )
        except (OSError, Refused):
            return
        for volume in volumes:
            path = Path(volume["spec"].get("hostPath", {}).get("path", ""))
            if path.parent == _VOLUMES:
                shutil.rmtree(path, ignore_errors=True)

    def restart_api_server(self) -> None:
        """Kill the API server and start it again, as an upgrade of the control plane does."""
        program = self._programs["kube-apiserver"]
        program.kill()
        program.wait()
        self._run("kube-apiserver", self._commands["kube-apiserver"])
        wait_for(self._is_ready, READY_S, "the API server is ready again")

    def logs(self, last_bytes: int = 6000) -> dict[str, str]:
        """Return the end of what each program has written, for a failed test's report."""
        found = {}
        for file in sorted(self.directory.glob("*.stderr")):
            found[file.stem] = file.read_bytes()[-last_bytes:].decode(errors="replace")
        return found

    def kubeconfig(self, name: str, token: str = "") -> Path:
        """Write a kubeconfig that holds one token and nothing else; without one the admin's."""
        file = self.directory / f"{name}.kubeconfig"
        content = {
            "apiVersion": "v1",
            "kind": "Config",
            "current-context": "test",
            "clusters": [
                {
                    "name": "test",
                    "cluster": {
                        "server": self.url,
                        "certificate-authority": str(self.authority),
                    },
                }
            ],
            "users": [{"name": "test", "user": {"token": token or self._tokens[ADMIN]}}],
            "contexts": [{"name": "test", "context": {"cluster": "test", "user": "test"}}],
        }
        file.touch(mode=0o600)
        file.write_text(json.dumps(content))
        return file

    def client(self, token: str, user_agent: str = "test") -> Api:
        """Return a client of somebody else."""
        return Api(self.url, self.authority, token, user_agent)

    @property
    def kubelet_token(self) -> str:
        """What the fake kubelet shows."""
        return self._tokens[KUBELET]

    # Programs

    def _run(self, name: str, command: list[str]) -> None:
        self._commands[name] = command
        with (self.directory / f"{name}.stderr").open("ab") as log:
            self._programs[name] = processes.start(
                command, stdout=log, stderr=subprocess.STDOUT, cwd=self.directory
            )

    def _is_ready(self) -> bool:
        for name, program in self._programs.items():
            if program.poll() is not None:
                raise AssertionError(f"{name} has ended: {self.logs()[name]}")
        try:
            return bool(self.api.request("GET", "/readyz") == "ok")
        except (OSError, Refused):
            self.api.close()
            return False

    def _write_files(self) -> None:
        authority = Authority(self.directory / "authority", "Test cluster")
        self._pair = authority.server("kubernetes.default.svc", "localhost", file="apiserver")
        key = ec.generate_private_key(ec.SECP256R1())
        private = serialization.PrivateFormat.TraditionalOpenSSL
        self._account_key = self.directory / "accounts.key"
        self._account_key.touch(mode=0o600)
        self._account_key.write_bytes(
            key.private_bytes(serialization.Encoding.PEM, private, serialization.NoEncryption())
        )
        masters = '"system:masters"'
        lines = [
            f"{self._tokens[ADMIN]},{ADMIN},{ADMIN},{masters}",
            f"{self._tokens[KUBELET]},{KUBELET},{KUBELET},{masters}",
            f"{self._tokens[CONTROLLERS]},{CONTROLLERS},{CONTROLLERS}",
        ]
        self._token_file = self.directory / "tokens.csv"
        self._token_file.touch(mode=0o600)
        self._token_file.write_text("\n".join(lines) + "\n")
        self._audit_policy = self.directory / "audit-policy.yaml"
        self._audit_policy.write_text(yaml.safe_dump(_AUDIT_POLICY))

    def _api_server_arguments(self, store: str, port: int) -> list[str]:
        return [
            f"--etcd-servers={store}",
            "--bind-address=127.0.0.1",
            "--advertise-address=127.0.0.1",
            f"--secure-port={port}",
            f"--cert-dir={self.directory / 'certificates'}",
            f"--tls-cert-file={self._pair.certificate}",
            f"--tls-private-key-file={self._pair.key}",
            f"--token-auth-file={self._token_file}",
            "--authorization-mode=RBAC",
            f"--service-account-issuer={ISSUER}",
            f"--service-account-signing-key-file={self._account_key}",
            f"--service-account-key-file={self._account_key}",
            f"--service-cluster-ip-range={SERVICE_RANGE}",
            "--endpoint-reconciler-type=none",
            "--shutdown-delay-duration=0s",
            f"--audit-policy-file={self._audit_policy}",
            f"--audit-log-path={self.audit.file}",
            "--audit-log-maxsize=1000",
            "--profiling=false",
        ]

    def _controller_arguments(self) -> list[str]:
        config = self.kubeconfig("controllers", self._tokens[CONTROLLERS])
        return [
            f"--kubeconfig={config}",
            f"--authentication-kubeconfig={config}",
            f"--authorization-kubeconfig={config}",
            f"--service-account-private-key-file={self._account_key}",
            f"--root-ca-file={self.authority}",
            "--use-service-account-credentials=true",
            "--leader-elect=false",
            "--bind-address=127.0.0.1",
            f"--secure-port={free_port()}",
            f"--cert-dir={self.directory / 'certificates'}",
            "--enable-hostpath-provisioner=true",
            "--horizontal-pod-autoscaler-sync-period=1s",
            "--pvclaimbinder-sync-period=1s",
            "--resource-quota-sync-period=5s",
            "--kube-api-qps=200",
            "--kube-api-burst=400",
            "--controllers=" + ",".join(["*", *(f"-{name}" for name in _WITHOUT)]),
        ]


def _etcd_arguments(data: Path, client: str) -> list[str]:
    peer = f"http://127.0.0.1:{free_port()}"
    return [
        f"--data-dir={data}",
        "--unsafe-no-fsync",
        f"--listen-client-urls={client}",
        f"--advertise-client-urls={client}",
        f"--listen-peer-urls={peer}",
        f"--initial-advertise-peer-urls={peer}",
        f"--initial-cluster=default={peer}",
        "--logger=zap",
    ]
