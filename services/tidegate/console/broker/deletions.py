"""Deletions of retained messages: one at once, many by filter while one watches.

Owns the deletions under way and the last ones that have ended. Messages are deleted by publishing
empty ones through an edge, so that routers, quotas and subscribers learn of it as they always do.
"""

from __future__ import annotations

import asyncio
import logging
import secrets
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from http import HTTPStatus
from typing import Final

from tidegate.console.errors import ApiError, Reason, not_found
from tidegate.console.models.retained import Deletion, DeletionState
from tidegate.console.nodes.client import NodeError
from tidegate.console.nodes.pool import Nodes
from tidegate.console.store_link import StoreLink
from tidegate.store.api import StoreUnavailable
from tidegate.store.inspection.retained import RetainedInspection

log = logging.getLogger(__name__)

#: Deletions at the same time, and those that are kept to be looked at.
MOST_RUNNING: Final = 4
MOST_KEPT: Final = 50
#: Topics of one request to an edge.
_BATCH: Final = 200
#: How long a batch may take until nothing of it is left, and the pause between two looks.
_BATCH_S: Final = 30.0
_PAUSE_S: Final = 0.05


@dataclass(slots=True)
class _Job:
    id: str
    topic_filter: str
    by: str
    started_at: float
    state: DeletionState = DeletionState.RUNNING
    looked_at: int = 0
    deleted: int = 0
    progress: float = 0.0
    ended_at: float | None = None
    problem: str | None = None
    task: asyncio.Task[None] | None = field(default=None, repr=False)

    def shown(self) -> Deletion:
        """Shape it."""
        return Deletion(
            id=self.id,
            filter=self.topic_filter,
            state=self.state,
            looked_at=self.looked_at,
            deleted=self.deleted,
            progress=self.progress,
            started_at=self.started_at,
            ended_at=self.ended_at,
            problem=self.problem,
            by=self.by,
        )


class Deletions:
    """See the module's docstring. ``close`` it."""

    def __init__(self, nodes: Nodes, store: StoreLink) -> None:
        self._nodes = nodes
        self._store = store
        self._jobs: dict[str, _Job] = {}

    async def close(self) -> None:
        """Stop everything."""
        tasks = [job.task for job in self._jobs.values() if job.task is not None]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    def all(self) -> Sequence[Deletion]:
        """Return all that are known, the newest first."""
        return [job.shown() for job in reversed(self._jobs.values())]

    def get(self, deletion_id: str) -> Deletion:
        """Return one. Raises ApiError."""
        return self._job(deletion_id).shown()

    def start(self, topic_filter: str, by: str) -> Deletion:
        """Begin to delete what matches a filter. Raises ApiError, StoreUnavailable."""
        retained = RetainedInspection(self._store.access)
        running = [job for job in self._jobs.values() if job.state is DeletionState.RUNNING]
        if len(running) >= MOST_RUNNING:
            raise ApiError(
                HTTPStatus.TOO_MANY_REQUESTS,
                Reason.TOO_MANY,
                f"{MOST_RUNNING} deletions are running: wait for one, or stop one",
            )
        job = _Job(secrets.token_hex(8), topic_filter, by, time.time())
        self._jobs[job.id] = job
        ended = [each for each in self._jobs.values() if each.ended_at is not None]
        for each in ended[: max(0, len(self._jobs) - MOST_KEPT)]:
            del self._jobs[each.id]
        job.task = asyncio.create_task(self._run(job, retained))
        return job.shown()

    async def stop(self, deletion_id: str) -> Deletion:
        """Stop one, if it runs; what is deleted stays so. Raises ApiError."""
        job = self._job(deletion_id)
        if job.task is not None:
            job.task.cancel()
            await asyncio.gather(job.task, return_exceptions=True)
        return job.shown()

    def _job(self, deletion_id: str) -> _Job:
        job = self._jobs.get(deletion_id)
        if job is None:
            raise not_found(f"no deletion has the id {deletion_id}: the console has been restarted")
        return job

    async def _run(self, job: _Job, retained: RetainedInspection) -> None:
        try:
            for partition in range(retained.partitions):
                scan = 0
                while True:
                    scan, topics = await retained.topics(job.topic_filter, partition, scan)
                    job.looked_at += len(topics)
                    for at in range(0, len(topics), _BATCH):
                        job.deleted += await self.delete(topics[at : at + _BATCH])
                    if not scan:
                        break
                job.progress = (partition + 1) / retained.partitions
            job.state = DeletionState.DONE
        except asyncio.CancelledError:
            job.state = DeletionState.STOPPED
            raise
        except (StoreUnavailable, ApiError) as error:
            job.state, job.problem = DeletionState.FAILED, str(error)
        except Exception:
            job.state, job.problem = DeletionState.FAILED, "an error of the console; see its log"
            log.exception("deletion of retained messages failed")
        finally:
            job.ended_at = time.time()

    async def delete(self, topics: Sequence[str]) -> int:
        """Delete the retained messages of topics; how many. Raises ApiError, StoreUnavailable.

        Returns when the store has none of them. One that a publisher retains again meanwhile is
        deleted again, for a while.
        """
        retained = RetainedInspection(self._store.access)
        left = first = await retained.exist(topics)
        deadline_s = time.monotonic() + _BATCH_S
        asked: set[str] = set()
        while left:
            if asked != set(left):
                await self._publish_empty(left)
                asked = set(left)
            await asyncio.sleep(_PAUSE_S)
            left = await retained.exist(left)
            if left and time.monotonic() > deadline_s:
                raise ApiError(
                    HTTPStatus.SERVICE_UNAVAILABLE,
                    Reason.NODE_UNAVAILABLE,
                    f"{len(left)} messages are still there, one of them at {left[0]}: routers do "
                    "not write, or a publisher retains them again",
                )
        return len(first)

    async def _publish_empty(self, topics: Sequence[str]) -> None:
        """Have an edge publish empty messages; what it does not take, the next one does."""
        problems = []
        left = list(topics)
        for edge in await self._nodes.edges():
            try:
                status, answer = await edge.ask_json("DELETE", "/retained", body={"topics": left})
            except NodeError as error:
                problems.append(f"{edge.name}: {error}")
                continue
            if status >= 400:
                problems.append(f"{edge.name}: {answer.get('error', status)}")
                continue
            left = left[answer["published"] :]
            if not left:
                return
            problems.append(f"{edge.name}: no router takes messages now")
        if len(left) == len(topics):
            raise ApiError(
                HTTPStatus.SERVICE_UNAVAILABLE,
                Reason.NODE_UNAVAILABLE,
                f"no edge could publish: {'; '.join(problems) or 'none is configured'}",
            )
