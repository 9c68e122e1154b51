"""kopf's part: it finds MqttBrokers and logs in. What happens to them is ``reconcile``'s.

Only event handlers are used: kopf's other kinds would put finalizers and annotations into the
resource. ``Operator`` owns the queue, the API client and the tasks; ``register`` ties it to kopf.
"""

from __future__ import annotations

import asyncio
import contextlib
import datetime
import functools
import logging
from collections.abc import AsyncIterator, Callable, Coroutine, Sequence
from dataclasses import dataclass
from typing import Any, Final

import kopf

from tidegate_operator import names
from tidegate_operator.health import Vitals, server_of
from tidegate_operator.kube.cache import CachedCluster, slim
from tidegate_operator.kube.client import KubeApi, object_path
from tidegate_operator.kube.interface import Event, KubeError, KubeUnavailable, Listed
from tidegate_operator.plan import MANAGED_KINDS
from tidegate_operator.pods.admin_client import AdminClient
from tidegate_operator.reconcile import Reconciler
from tidegate_operator.render import Manifest
from tidegate_operator.secrets.reference_index import Referrers
from tidegate_operator.secrets.references import Kind
from tidegate_operator.spec import crd
from tidegate_operator.work_queue import Key, WorkQueue

log = logging.getLogger(__name__)

#: Which broker it is, and what it says: its uid and its generation.
State = tuple[str, int]

#: Between two attempts to watch something.
PAUSE_S: Final = 5.0
#: How long the first look at everything may take before brokers are looked at without it.
FIRST_LIST_S: Final = 30.0
#: What is watched: everything that is made, and the pods.
WATCHED: Final = (*MANAGED_KINDS, ("v1", "Pod"))
#: What specs refer to: of these, also the objects of others are watched.
REFERRED: Final[tuple[Kind, ...]] = ("Secret", "ConfigMap")
OURS: Final = f"{names.MANAGED_BY_LABEL}={names.FIELD_MANAGER}"


@dataclass(slots=True, frozen=True)
class Options:
    """What the command line says."""

    image: str
    namespace: str
    #: Namespaces that are served; empty: all.
    watched: Sequence[str] = ()
    resync_s: float = 60.0
    workers: int = 8
    upgrade_crd: bool = True
    #: Where health and metrics are; no port: nowhere. ``*`` is every address.
    admin_address: str = "*"
    admin_port: int | None = None


async def log_in(**_: Any) -> kopf.ConnectionInfo:
    """Find credentials: those of the pod, else a kubeconfig's. Raises kopf.LoginError."""
    options: dict[str, Any] = {"logger": log, "settings": kopf.OperatorSettings()}
    found = kopf.login_with_service_account(**options) or kopf.login_with_kubeconfig(**options)
    if found is None:
        raise kopf.LoginError("neither a ServiceAccount's token nor a kubeconfig is there")
    return found


def utc_now() -> datetime.datetime:
    """The time that certificates are compared with."""
    return datetime.datetime.now(datetime.UTC)


class Operator:
    """Everything that lives as long as the process."""

    def __init__(self, options: Options) -> None:
        self.options = options
        self._stack = contextlib.AsyncExitStack()
        self._queue: WorkQueue | None = None
        self._reconciler: Reconciler | None = None
        self._states: dict[Key, State] = {}
        self._referrers = Referrers()
        self.vitals = Vitals()

    async def start(self) -> None:
        """Connect, bring the CRD up to date, begin to work."""
        options, vitals = self.options, self.vitals
        await self._serve_health()
        vitals.waiting_for = "MqttBrokers cannot be listed yet; is the CRD installed?"
        api = await self._stack.enter_async_context(KubeApi(log_in))
        vitals.requests = api.answers
        pods = await self._stack.enter_async_context(AdminClient())
        if options.upgrade_crd:
            await upgrade_crd(api)
        await wait_for_crd(api, options.watched)
        places = list(options.watched) or [""]
        watches = [(one, kind, place) for place in places for one, kind in WATCHED]
        referred = [(kind, place) for place in places for kind in REFERRED]
        cache = CachedCluster(
            api,
            [f"{kind} {place}" for _, kind, place in watches]
            + [f"{kind}s of others {place}" for kind, place in referred],
        )
        self._reconciler = Reconciler(
            cache,
            options.image,
            options.namespace,
            utc_now,
            pods,
            options.resync_s,
            self._referrers,
        )
        vitals.brokers = lambda: len(self._states)
        vitals.watches_down = cache.watches_down
        vitals.ask_served = lambda: api.not_served(places[0])
        for api_version, kind, place in watches:
            stream = functools.partial(api.follow, api_version, kind, place, OURS, slim)
            work = self._follow(cache, kind, place, stream)
            self._background(f"watch of {kind} {place}", work)
        for kind, place in referred:
            name = f"{kind}s of others {place}"
            changes = functools.partial(api.changes, "v1", kind, place, "")
            self._background(f"watch of {name}", self._watch(cache, name, kind, changes))
        # What there is costs a few lists now, and some for each broker later. Who is to be looked
        # at is told by kopf, after this.
        vitals.waiting_for = "what belongs to brokers has not been listed yet"
        await cache.until_up(FIRST_LIST_S)
        self._queue = WorkQueue(self._work, options.workers, (KubeUnavailable, KubeError))
        vitals.queue = self._queue.load
        self._background("queue", self._queue.run())
        vitals.waiting_for = ""

    async def stop(self) -> None:
        """End what ``start`` has begun."""
        await self._stack.aclose()

    def seen(self, namespace: str, name: str) -> None:
        """Something has happened to a broker, or to what it has made."""
        if self._queue is not None:
            self._queue.add((namespace, name))

    def broker_seen(self, namespace: str, name: str, state: State | None) -> None:
        """A broker is there in this state, or has gone (None).

        Its status changes without a new generation: that is our own work, and no news.
        """
        key = (namespace, name)
        if state is not None and self._states.get(key) == state:
            return
        if state is None:
            self._states.pop(key, None)
        else:
            self._states[key] = state
        self.seen(namespace, name)

    async def _work(self, key: Key) -> float | None:
        assert self._reconciler is not None
        before = self._states.get(key)
        async with self.vitals.reconciling():
            outcome = await self._reconciler.reconcile(*key)
        # A watch that was down does not tell who has gone. Who has come meanwhile is another.
        if outcome.again_s is None and self._states.get(key) == before:
            self._states.pop(key, None)
        self.vitals.reconciled(outcome.applied, outcome.deleted)
        if outcome.applied or outcome.deleted:
            log.info(
                "reconciled",
                extra={
                    "namespace": key[0],
                    "broker": key[1],
                    "applied": outcome.applied,
                    "deleted": outcome.deleted,
                },
            )
        return outcome.again_s

    async def _follow(
        self,
        cache: CachedCluster,
        kind: str,
        place: str,
        stream: Callable[[], AsyncIterator[Listed | Event]],
    ) -> None:
        """Tell the cache what there is, and have brokers looked at of which anything changes."""
        watch = f"{kind} {place}"
        while True:
            try:
                async for news in stream():
                    if isinstance(news, Listed):
                        for key in cache.listed(kind, place, news):
                            self.seen(*key)
                        cache.began(watch)
                    else:
                        for key in cache.happened(news):
                            self.seen(*key)
            except (KubeError, KubeUnavailable) as error:
                cache.ended(watch)
                log.warning("cannot watch", extra={"watch": watch, "reason": str(error)})
                await asyncio.sleep(PAUSE_S)

    async def _watch(
        self,
        cache: CachedCluster,
        watch: str,
        kind: Kind,
        changes: Callable[[], AsyncIterator[Manifest | None]],
    ) -> None:
        """Have brokers looked at that refer to an object that changes, for ever."""
        while True:
            try:
                async for changed in changes():
                    if changed is None:
                        cache.began(watch)
                        continue
                    where = changed["metadata"]
                    for name in self._referrers.of(where["namespace"], (kind, where["name"])):
                        self.seen(where["namespace"], name)
            except (KubeError, KubeUnavailable) as error:
                cache.ended(watch)
                log.warning("cannot watch", extra={"watch": watch, "reason": str(error)})
                await asyncio.sleep(PAUSE_S)

    async def _serve_health(self) -> None:
        """Say how it is from the first moment on. Raises OSError."""
        if self.options.admin_port is not None:
            server = server_of(self.vitals, self.options.admin_address, self.options.admin_port)
            await server.start()
            self._stack.push_async_callback(server.stop)
            log.info("health and metrics", extra={"url": server.url})

    def _background(self, name: str, work: Coroutine[Any, Any, None]) -> None:
        task = asyncio.create_task(work)

        def ended(task: asyncio.Task[None]) -> None:
            if not task.cancelled():
                self.vitals.broken = f"the {name} has ended"
                log.error("a background task has failed", exc_info=task.exception())

        task.add_done_callback(ended)

        async def end() -> None:
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)

        self._stack.push_async_callback(end)


async def upgrade_crd(api: KubeApi) -> bool:
    """Apply the CRD that belongs to this version, unless there is a newer one; return whether.

    An API server that is away is waited for.
    """
    while True:
        try:
            return await _upgrade_crd(api)
        except KubeUnavailable as error:
            log.warning("the API server is waited for", extra={"reason": str(error)})
        await asyncio.sleep(PAUSE_S)


async def _upgrade_crd(api: KubeApi) -> bool:
    wanted = crd.definition()
    path = object_path(wanted["apiVersion"], wanted["kind"], "", names.CRD_NAME)
    try:
        there = await api.get(path)
        annotations = {} if there is None else there["metadata"].get("annotations") or {}
        revision = str(annotations.get(names.CRD_REVISION, ""))
        if revision.isdecimal() and int(revision) >= crd.REVISION:
            return False
        await api.apply(wanted)
    except KubeError as error:
        log.warning("the CRD is not brought up to date", extra={"reason": str(error)})
        return False
    log.info("brought the CRD up to date", extra={"revision": crd.REVISION})
    return True


async def wait_for_crd(api: KubeApi, watched: Sequence[str]) -> None:
    """Return once MqttBrokers can be listed: kopf looks for them once, and not again."""
    while True:
        try:
            for namespace in watched or [""]:
                await api.brokers(namespace)
        except (KubeError, KubeUnavailable) as error:
            log.warning(
                "MqttBrokers cannot be listed; is the CRD installed, and are the roles?",
                extra={"reason": str(error)},
            )
            await asyncio.sleep(PAUSE_S)
        else:
            return


def register(operator: Operator) -> kopf.OperatorRegistry:
    """Return kopf's registry with our handlers."""
    registry = kopf.OperatorRegistry()

    @kopf.on.startup(registry=registry)
    async def start(settings: kopf.OperatorSettings, **_: Any) -> None:
        # Nothing of the cluster's structure interests us: no right to see it is needed.
        settings.scanning.disabled = True
        settings.posting.enabled = False
        # A handler only puts a key into our queue: there is nothing to wait for.
        settings.queueing.idle_timeout = 1.0
        settings.queueing.exit_timeout = 0.1
        try:
            await operator.start()
        except BaseException:
            # kopf tries again after a while, from the beginning.
            await operator.stop()
            raise

    @kopf.on.cleanup(registry=registry)
    async def stop(**_: Any) -> None:
        await operator.stop()

    kopf.on.login(registry=registry)(log_in)

    @kopf.on.event(names.GROUP, names.VERSION, names.PLURAL, registry=registry)
    async def seen(event: kopf.RawEvent, **_: Any) -> None:
        metadata: dict[str, Any] = dict(event["object"]["metadata"])
        ends = event["type"] == "DELETED" or "deletionTimestamp" in metadata
        state = None if ends else (metadata.get("uid", ""), metadata.get("generation", 0))
        operator.broker_seen(metadata["namespace"], metadata["name"], state)

    return registry
