"""kopf's part: watches MqttBrokers, and logs in. ``reconcile`` decides what happens to them.

``Operator`` owns the work queue, the API client, the watches and the tasks; ``register`` connects
it to kopf. Only event handlers are used: kopf's other kinds would add finalizers and annotations to
the resource.
"""

from __future__ import annotations

import asyncio
import contextlib
import datetime
import functools
import logging
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine, Sequence
from dataclasses import dataclass
from typing import Any, Final

import kopf

from tidegate_operator import names
from tidegate_operator.backups.controller import BackupController, BackupIndex, needs_work
from tidegate_operator.health import OperatorHealth, admin_server
from tidegate_operator.kube.cache import CachedCluster, slim
from tidegate_operator.kube.client import KubeApi, object_path
from tidegate_operator.kube.interface import Event, KubeError, KubeUnavailable, Listed
from tidegate_operator.names import BrokerKey
from tidegate_operator.plan import MANAGED_KINDS
from tidegate_operator.pods.admin_client import AdminClient
from tidegate_operator.reconcile.reconciler import Reconciler
from tidegate_operator.render import Manifest, Settings
from tidegate_operator.rollout.gate import RolloutGate
from tidegate_operator.secrets.reference_index import ReferenceIndex
from tidegate_operator.secrets.references import Kind
from tidegate_operator.spec import backup_crd, crd
from tidegate_operator.spec.maintenance import MaintenanceWindow
from tidegate_operator.work_queue import WorkQueue

log = logging.getLogger(__name__)

#: Uid and generation of a broker.
BrokerVersion = tuple[str, int]

#: Pause before a failed watch or request is retried.
RETRY_S: Final = 5.0
#: How long to wait for the initial lists before brokers are reconciled without the cache.
FIRST_SYNC_S: Final = 30.0
#: Kinds whose objects with the operator's label are watched.
WATCHED_KINDS: Final = (*MANAGED_KINDS, ("v1", "Pod"))
#: Kinds that specs refer to: all their objects are watched (metadata only).
REFERENCED_KINDS: Final[tuple[Kind, ...]] = ("Secret", "ConfigMap")
#: Pause before a failed watch for backups is retried: their CRD may not be installed (yet).
BACKUP_RETRY_S: Final = 10.0
#: How many MqttBackups are reconciled at the same time.
BACKUP_WORKERS: Final = 2
OWN_SELECTOR: Final = f"{names.MANAGED_BY_LABEL}={names.FIELD_MANAGER}"


@dataclass(slots=True, frozen=True)
class Options:
    """Options of the command line."""

    image: str
    namespace: str
    #: Watched namespaces; empty: all.
    watched: Sequence[str] = ()
    resync_s: float = 60.0
    workers: int = 8
    upgrade_crd: bool = True
    #: Peers of NetworkPolicies that may reach brokers' admin ports.
    metrics_peers: Sequence[Manifest] = ()
    #: How many brokers are rolled at the same time by the operator itself; 0: any number.
    max_concurrent: int = 3
    #: Maintenance windows of brokers that have none of their own.
    windows: Sequence[MaintenanceWindow] = ()
    #: Address and port of health and metrics. ``*``: all addresses; None: no server.
    admin_address: str = "*"
    admin_port: int | None = None


async def log_in(**_: Any) -> kopf.ConnectionInfo:
    """Return credentials of the pod, else of a kubeconfig. Raises kopf.LoginError."""
    options: dict[str, Any] = {"logger": log, "settings": kopf.OperatorSettings()}
    connection = kopf.login_with_service_account(**options) or kopf.login_with_kubeconfig(**options)
    if connection is None:
        raise kopf.LoginError("no ServiceAccount token and no kubeconfig found")
    return connection


def utc_now() -> datetime.datetime:
    """Return the time that certificates are compared with."""
    return datetime.datetime.now(datetime.UTC)


class Operator:
    """Everything that lives as long as the process."""

    def __init__(self, options: Options) -> None:
        self.options = options
        self._stack = contextlib.AsyncExitStack()
        self._queue: WorkQueue | None = None
        self._reconciler: Reconciler | None = None
        self._versions: dict[BrokerKey, BrokerVersion] = {}
        self._reference_index = ReferenceIndex()
        self._backups = BackupIndex()
        self._backup_queue: WorkQueue | None = None
        self.health = OperatorHealth()

    async def start(self) -> None:
        """Connect, upgrade the CRD, start watches and workers."""
        options, health = self.options, self.health
        await self._serve_health()
        health.waiting_for = "MqttBrokers cannot be listed yet; is the CRD installed?"
        api = await self._stack.enter_async_context(KubeApi(log_in))
        health.requests = api.responses
        admin = await self._stack.enter_async_context(AdminClient())
        if options.upgrade_crd:
            await upgrade_crd(api)
        await wait_for_crd(api, options.watched)
        namespaces = list(options.watched) or [""]
        cache = self._start_watches(api, namespaces)
        gate = RolloutGate(
            options.max_concurrent, options.windows, cache.fleet, lambda key: self.enqueue(*key)
        )
        settings = Settings(
            options.image,
            options.namespace,
            platform_sets_users=await _when_available(api.platform_sets_users),
            metrics_peers=options.metrics_peers,
        )
        self._reconciler = Reconciler(
            cache,
            settings,
            utc_now,
            admin,
            options.resync_s,
            self._reference_index,
            gate,
            self._backups,
        )
        health.rollouts = gate.load
        health.brokers = lambda: len(self._versions)
        health.watches_down = cache.watches_down
        health.check_served = lambda: api.unserved_reason(namespaces[0])
        # Waiting costs one list per kind; reconciling without the cache several per broker. kopf
        # reports the brokers after this.
        health.waiting_for = "waiting for the initial list of objects"
        await cache.wait_until_watching(FIRST_SYNC_S)
        self._queue = WorkQueue(self._work, options.workers, (KubeUnavailable, KubeError))
        health.queue = self._queue.load
        self._background("work queue", self._queue.run())
        self._start_backups(api, settings, namespaces)
        health.waiting_for = ""

    async def stop(self) -> None:
        """Stop everything that ``start`` has started."""
        await self._stack.aclose()

    def enqueue(self, namespace: str, name: str) -> None:
        """Queue a broker: it, or an object of it, has changed."""
        if self._queue is not None:
            self._queue.add((namespace, name))

    def broker_changed(self, namespace: str, name: str, version: BrokerVersion | None) -> None:
        """Queue a broker if its version has changed; None: it was deleted.

        Status updates, which are the operator's own, do not change the generation.
        """
        key = (namespace, name)
        if version is not None and self._versions.get(key) == version:
            return
        if version is None:
            self._versions.pop(key, None)
        else:
            self._versions[key] = version
        self.enqueue(namespace, name)

    async def _work(self, key: BrokerKey) -> float | None:
        assert self._reconciler is not None
        before = self._versions.get(key)
        async with self.health.reconciling():
            outcome = await self._reconciler.reconcile(*key)
        # kopf's watch may have missed the deletion; a new version is another broker of this name.
        if outcome.requeue_after_s is None and self._versions.get(key) == before:
            self._versions.pop(key, None)
        self.health.reconciled(outcome.applied, outcome.deleted)
        if outcome.applied or outcome.deleted:
            log.info(
                "broker reconciled",
                extra={
                    "namespace": key[0],
                    "broker": key[1],
                    "applied": outcome.applied,
                    "deleted": outcome.deleted,
                },
            )
        return outcome.requeue_after_s

    # Watches

    def _start_watches(self, api: KubeApi, namespaces: Sequence[str]) -> CachedCluster:
        """Start all watches; return the cache that they fill."""
        children = [
            (api_version, kind, namespace)
            for namespace in namespaces
            for api_version, kind in WATCHED_KINDS
        ]
        references = [(kind, namespace) for namespace in namespaces for kind in REFERENCED_KINDS]
        cache = CachedCluster(
            api,
            [f"{kind} {namespace}" for _, kind, namespace in children]
            + [f"referenced {kind} {namespace}" for kind, namespace in references],
        )
        for api_version, kind, namespace in children:
            stream = functools.partial(
                api.list_and_watch, api_version, kind, namespace, OWN_SELECTOR, slim
            )
            work = self._watch_children(cache, kind, namespace, stream)
            self._background(f"watch of {kind} {namespace}", work)
        for kind, namespace in references:
            watch = f"referenced {kind} {namespace}"
            changes = functools.partial(api.watch_metadata, "v1", kind, namespace, "")
            work = self._watch_references(cache, watch, kind, changes)
            self._background(f"watch of {watch}", work)
        return cache

    async def _watch_children(
        self,
        cache: CachedCluster,
        kind: str,
        namespace: str,
        stream: Callable[[], AsyncIterator[Listed | Event]],
    ) -> None:
        """Fill the cache with the objects of a kind, and queue the brokers of changed ones."""
        watch = f"{kind} {namespace}"

        async def run() -> None:
            async for news in stream():
                if isinstance(news, Listed):
                    for key in cache.replace(kind, namespace, news):
                        self.enqueue(*key)
                    cache.watch_started(watch)
                else:
                    for key in cache.apply_event(news):
                        self.enqueue(*key)

        await self._run_watch(cache, watch, run)

    async def _watch_references(
        self,
        cache: CachedCluster,
        watch: str,
        kind: Kind,
        changes: Callable[[], AsyncIterator[Manifest | None]],
    ) -> None:
        """Queue the brokers that refer to changed objects of a kind."""

        async def run() -> None:
            async for changed in changes():
                if changed is None:
                    cache.watch_started(watch)
                    continue
                namespace, name = changed["metadata"]["namespace"], changed["metadata"]["name"]
                index = self._reference_index
                for broker in index.brokers_referring_to(namespace, (kind, name)):
                    self.enqueue(namespace, broker)

        await self._run_watch(cache, watch, run)

    async def _run_watch(
        self, cache: CachedCluster, watch: str, run: Callable[[], Awaitable[None]]
    ) -> None:
        """Run a watch for ever, again after failures."""
        while True:
            try:
                await run()
            except (KubeError, KubeUnavailable) as error:
                cache.watch_ended(watch)
                extra = {"watch": watch, "reason": str(error), "retry_s": RETRY_S}
                log.warning("watch failed, retrying", extra=extra)
                await asyncio.sleep(RETRY_S)

    # Backups

    def _start_backups(self, api: KubeApi, settings: Settings, namespaces: Sequence[str]) -> None:
        """Start what reconciles MqttBackups. Brokers do not wait for it."""
        controller = BackupController(api, settings, utc_now)
        self._backup_queue = WorkQueue(
            controller.reconcile, BACKUP_WORKERS, (KubeUnavailable, KubeError), "backup"
        )
        self._background("work queue of backups", self._backup_queue.run())
        for namespace in namespaces:
            watches = (
                (names.API_VERSION, names.BACKUP_KIND, "", self._backup_news),
                ("batch/v1", "Job", OWN_SELECTOR, self._job_news),
            )
            for api_version, kind, selector, react in watches:
                stream = functools.partial(
                    api.list_and_watch, api_version, kind, namespace, selector, slim
                )
                work = self._watch_backups(f"{kind} {namespace}", namespace, stream, react)
                self._background(f"watch of {kind} {namespace}", work)

    async def _watch_backups(
        self,
        watch: str,
        namespace: str,
        stream: Callable[[], AsyncIterator[Listed | Event]],
        react: Callable[[str, Listed | Event], None],
    ) -> None:
        """Report the objects of a kind for ever; a watch that is down makes nothing unready."""
        while True:
            try:
                async for news in stream():
                    react(namespace, news)
            except (KubeError, KubeUnavailable) as error:
                extra = {"watch": watch, "reason": str(error), "retry_s": BACKUP_RETRY_S}
                log.warning("watch failed, retrying; backups wait", extra=extra)
                await asyncio.sleep(BACKUP_RETRY_S)

    def _backup_news(self, namespace: str, news: Listed | Event) -> None:
        """Queue changed MqttBackups, and the brokers whose schedule has made them."""
        if isinstance(news, Listed):
            self._backups.replace(namespace, news)
        else:
            self._backups.apply_event(news)
        for manifest in _objects(news):
            # The MqttBackup of a Job that is still there is not made again after its deletion.
            is_deleted = isinstance(news, Event) and news.is_deleted
            if needs_work(manifest) and not is_deleted:
                self._enqueue_backup(manifest)
            self.enqueue(*_broker_key(manifest))

    def _job_news(self, _: str, news: Listed | Event) -> None:
        """Queue the MqttBackups of changed Jobs, and brokers that are being restored."""
        for manifest in _objects(news):
            labels = manifest["metadata"].get("labels") or {}
            if labels.get(names.COMPONENT_LABEL) == "restore":
                self.enqueue(*_broker_key(manifest))
            elif not self._backups.is_over(_key(manifest)):
                self._enqueue_backup(manifest)

    def _enqueue_backup(self, manifest: Manifest) -> None:
        if self._backup_queue is not None:
            self._backup_queue.add(_key(manifest))

    # Tasks

    async def _serve_health(self) -> None:
        """Serve health and metrics from the beginning. Raises OSError."""
        if self.options.admin_port is not None:
            server = admin_server(self.health, self.options.admin_address, self.options.admin_port)
            await server.start()
            self._stack.push_async_callback(server.stop)
            log.info("admin server started", extra={"url": server.url})

    def _background(self, name: str, work: Coroutine[Any, Any, None]) -> None:
        task = asyncio.create_task(work)

        def done(task: asyncio.Task[None]) -> None:
            if not task.cancelled():
                self.health.fatal = f"background task failed: {name.strip()}"
                log.error("background task failed", extra={"task": name}, exc_info=task.exception())

        task.add_done_callback(done)

        async def cancel() -> None:
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)

        self._stack.push_async_callback(cancel)


def _objects(news: Listed | Event) -> list[Manifest]:
    return news.objects if isinstance(news, Listed) else [news.manifest]


def _key(manifest: Manifest) -> BrokerKey:
    return manifest["metadata"]["namespace"], manifest["metadata"]["name"]


def _broker_key(manifest: Manifest) -> BrokerKey:
    """Return the broker of an MqttBackup or of a Job."""
    metadata = manifest["metadata"]
    labels: dict[str, str] = metadata.get("labels") or {}
    spec: dict[str, Any] = manifest.get("spec") or {}
    broker = spec.get("broker") or labels.get(names.INSTANCE_LABEL, "")
    return metadata["namespace"], str(broker)


async def upgrade_crd(api: KubeApi) -> bool:
    """Apply the CRDs of this version, unless the installed one is newer; return whether any was.

    Retried while the API server is unavailable.
    """
    definitions = [
        (crd.definition(), crd.REVISION),
        (backup_crd.definition(), backup_crd.REVISION),
    ]
    applied = [
        await _when_available(functools.partial(_upgrade_crd, api, definition, revision))
        for definition, revision in definitions
    ]
    return any(applied)


async def _when_available(call: Callable[[], Awaitable[bool]]) -> bool:
    while True:
        try:
            return await call()
        except KubeUnavailable as error:
            extra = {"reason": str(error), "retry_s": RETRY_S}
            log.warning("API server unavailable, retrying", extra=extra)
        await asyncio.sleep(RETRY_S)


async def _upgrade_crd(api: KubeApi, desired: Manifest, wanted: int) -> bool:
    name = desired["metadata"]["name"]
    path = object_path(desired["apiVersion"], desired["kind"], "", name)
    try:
        live = await api.get(path)
        annotations = {} if live is None else live["metadata"].get("annotations") or {}
        revision = str(annotations.get(names.CRD_REVISION, ""))
        if revision.isdecimal() and int(revision) >= wanted:
            return False
        await api.apply(desired)
    except KubeError as error:
        log.warning("CRD upgrade rejected", extra={"crd": name, "reason": str(error)})
        return False
    log.info("CRD upgraded", extra={"crd": name, "revision": wanted})
    return True


async def wait_for_crd(api: KubeApi, watched: Sequence[str]) -> None:
    """Return once MqttBrokers can be listed: kopf looks up the resource only once."""
    while True:
        try:
            for namespace in watched or [""]:
                await api.brokers(namespace)
        except (KubeError, KubeUnavailable) as error:
            extra = {"reason": str(error), "retry_s": RETRY_S}
            log.warning(
                "MqttBrokers cannot be listed, retrying; are the CRD and the roles installed?",
                extra=extra,
            )
            await asyncio.sleep(RETRY_S)
        else:
            return


def register(operator: Operator) -> kopf.OperatorRegistry:
    """Return kopf's registry with the operator's handlers."""
    registry = kopf.OperatorRegistry()

    @kopf.on.startup(registry=registry)
    async def start(settings: kopf.OperatorSettings, **_: Any) -> None:
        # No discovery of namespaces and resources: the operator has no right to list them.
        settings.scanning.disabled = True
        settings.posting.enabled = False
        # Handlers only queue a key: there is nothing to wait for.
        settings.queueing.idle_timeout = 1.0
        settings.queueing.exit_timeout = 0.1
        try:
            await operator.start()
        except BaseException:
            # kopf retries the whole start-up.
            await operator.stop()
            raise

    @kopf.on.cleanup(registry=registry)
    async def stop(**_: Any) -> None:
        await operator.stop()

    kopf.on.login(registry=registry)(log_in)

    @kopf.on.event(names.GROUP, names.VERSION, names.PLURAL, registry=registry)
    async def on_event(event: kopf.RawEvent, **_: Any) -> None:
        metadata: dict[str, Any] = dict(event["object"]["metadata"])
        is_deleted = event["type"] == "DELETED" or "deletionTimestamp" in metadata
        version = None if is_deleted else (metadata.get("uid", ""), metadata.get("generation", 0))
        operator.broker_changed(metadata["namespace"], metadata["name"], version)

    return registry
