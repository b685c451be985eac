"""Gathers notifications of all connections into uplinks, and hands them to reception until they are committed.

Each concentrator has a queue of its own: one whose share is spent waits, and holds up no other.
"""

import asyncio
import logging
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from types import MappingProxyType
from typing import TypeVar

from django.conf import settings
from django.db import DatabaseError, InterfaceError, close_old_connections, connections
from django.utils import timezone

from concentrators import tasks
from concentrators.ingest import backlog, fair_shares, reception
from concentrators.listener.figures import Figures
from concentrators.listener.untitled import with_titles
from concentrators.models import Concentrator
from keyvault.cose.structures import encode_sequence

logger = logging.getLogger(__name__)

FRAMES, GATHER_S = 200, 0.25  # an uplink holds so many notifications, or those of so long
QUEUED_MAX = 1_000  # of a concentrator; then its connections are not read any more
_FIRST_WAIT_S, _WAIT_MAX_S = 0.5, 10.0


class NotNowError(Exception):
    """Reception takes nothing of this concentrator at present: too much waits for verification."""


class InactiveError(Exception):
    """The concentrator is not active: its frames are dropped, as its posts would be refused."""


Receive = Callable[[int, Sequence[bytes]], None]
_T = TypeVar("_T")


def receive(
    concentrator_id: int, frames: Sequence[bytes], titles_by_port: Mapping[int, bytes] = MappingProxyType({})
) -> None:
    """Commit frames as one uplink of a concentrator. NotNowError or a database error: nothing was stored, try again.

    Frames that do not say their sender get its title first (``untitled``). InactiveError or UplinkError: they are
    refused for good.
    """
    if not Concentrator.objects.filter(pk=concentrator_id, is_active=True).exists():
        raise InactiveError
    now = timezone.now()
    share = fair_shares.look(concentrator_id, now)
    if share.is_queue_spent or share.are_octets_spent or backlog.is_over(settings.UPLINK_QUEUE_MAX):
        raise NotNowError
    body = encode_sequence(with_titles(concentrator_id, frames, titles_by_port))
    reception.receive(concentrator_id, body, now, tasks.enqueue, comes_last=share.comes_last)


class Gatherer:
    """Takes notifications, and commits them in uplinks, in order. What fails is tried again until it is committed."""

    def __init__(self, figures: Figures, receive: Receive = receive) -> None:
        self._receive = receive
        self.figures = figures
        self._queues: dict[int, asyncio.Queue[bytes | None]] = {}  # by concentrator; None: nothing follows
        self._committing = asyncio.TaskGroup()
        self._moved = asyncio.Condition()
        self._ending = asyncio.Event()
        self._thread = ThreadPoolExecutor(1, "reception")  # one connection to the database

    async def put(self, concentrator_id: int, notifications: Sequence[bytes]) -> None:
        """Take notifications of a concentrator; then wait while too many of it are not committed yet."""
        queue = self._queues.get(concentrator_id)
        if queue is None:
            queue = self._queues[concentrator_id] = asyncio.Queue()
            self._committing.create_task(self._work(concentrator_id, queue))
        for octets in notifications:
            queue.put_nowait(octets)
        async with self._moved:
            await self._moved.wait_for(lambda: queue.qsize() <= QUEUED_MAX)

    async def run(self) -> None:
        """Work until ``end``; all that was taken before is committed then."""
        try:
            async with self._committing:
                await self._ending.wait()
                for queue in self._queues.values():
                    queue.put_nowait(None)
        finally:
            await asyncio.get_running_loop().run_in_executor(self._thread, connections.close_all)
            self._thread.shutdown()

    async def in_database(self, work: Callable[[], _T]) -> _T:
        """Do some work in the thread that has the connection to the database; not after ``run`` has ended."""
        return await asyncio.get_running_loop().run_in_executor(self._thread, work)

    def end(self) -> None:
        """Let ``run`` return once everything is committed."""
        self._ending.set()

    async def _work(self, concentrator_id: int, queue: asyncio.Queue[bytes | None]) -> None:
        ended = False
        while not ended:
            frames, ended = await _gather(queue)
            async with self._moved:
                self._moved.notify_all()
            if frames:
                await self._commit(concentrator_id, frames)

    async def _commit(self, concentrator_id: int, frames: Sequence[bytes]) -> None:
        wait_s = _FIRST_WAIT_S
        while True:
            try:
                await self.in_database(partial(self._try, concentrator_id, frames))
            except (NotNowError, DatabaseError, InterfaceError) as error:
                logger.warning("%s frames are kept and tried again: %s", len(frames), type(error).__name__)
                await asyncio.sleep(wait_s)
                wait_s = min(2 * wait_s, _WAIT_MAX_S)
            except (reception.UplinkError, InactiveError) as error:
                why = error if isinstance(error, reception.UplinkError) else "it is not active"
                logger.error("%s frames of concentrator %s were dropped: %s", len(frames), concentrator_id, why)
                self.figures.counts["dropped"] += len(frames)
                return
            else:
                self.figures.counts["committed"] += len(frames)
                return

    def _try(self, concentrator_id: int, frames: Sequence[bytes]) -> None:
        close_old_connections()  # one that broke is made anew
        self._receive(concentrator_id, frames)


async def _gather(queue: asyncio.Queue[bytes | None]) -> tuple[list[bytes], bool]:
    """The next notifications, and whether they are the last."""
    loop = asyncio.get_running_loop()
    first = await queue.get()
    if first is None:
        return [], True
    batch, until = [first], loop.time() + GATHER_S
    while len(batch) < FRAMES and (left_s := until - loop.time()) > 0:
        try:
            octets = await asyncio.wait_for(queue.get(), left_s)
        except TimeoutError:
            break
        if octets is None:
            return batch, True
        batch.append(octets)
    return batch, False
