"""Gathers notifications of all connections into uplinks, and hands them to reception until they are committed."""

import asyncio
import logging
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from types import MappingProxyType
from typing import NamedTuple, TypeVar

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
QUEUED_MAX = 2_000  # then connections are not read any more
_FIRST_WAIT_S, _WAIT_MAX_S = 0.5, 10.0


class Taken(NamedTuple):
    """A notification of a concentrator."""

    concentrator_id: int
    octets: bytes


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
        self._queue: asyncio.Queue[Taken | None] = asyncio.Queue(QUEUED_MAX)
        self._thread = ThreadPoolExecutor(1, "reception")  # one connection to the database

    async def put(self, taken: Taken) -> None:
        """Take a notification; waits while too many are not committed yet."""
        await self._queue.put(taken)

    async def run(self) -> None:
        """Work until ``end``; all that was taken before is committed then."""
        try:
            ended = False
            while not ended:
                batch, ended = await self._gather()
                by_concentrator: dict[int, list[bytes]] = {}
                for taken in batch:
                    by_concentrator.setdefault(taken.concentrator_id, []).append(taken.octets)
                for concentrator_id, frames in by_concentrator.items():
                    await self._commit(concentrator_id, frames)
        finally:
            await asyncio.get_running_loop().run_in_executor(self._thread, connections.close_all)
            self._thread.shutdown()

    async def in_database(self, work: Callable[[], _T]) -> _T:
        """Do some work in the thread that has the connection to the database; not after ``run`` has ended."""
        return await asyncio.get_running_loop().run_in_executor(self._thread, work)

    async def end(self) -> None:
        """Let ``run`` return once everything is committed."""
        await self._queue.put(None)

    async def _gather(self) -> tuple[list[Taken], bool]:
        """The next notifications, and whether they are the last."""
        loop = asyncio.get_running_loop()
        first = await self._queue.get()
        if first is None:
            return [], True
        batch, until = [first], loop.time() + GATHER_S
        while len(batch) < FRAMES and (left_s := until - loop.time()) > 0:
            try:
                taken = await asyncio.wait_for(self._queue.get(), left_s)
            except TimeoutError:
                break
            if taken is None:
                return batch, True
            batch.append(taken)
        return batch, False

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
