"""Listens on TCP for meters that push: connections with their limits, each cut into notifications."""

import asyncio
import logging
import signal
import ssl
from collections import Counter
from collections.abc import Awaitable, Callable, Mapping
from contextlib import suppress
from functools import partial
from typing import Any, NamedTuple

from django.db import DatabaseError, InterfaceError, close_old_connections, connections

from ami_headend.core import sd_notify
from concentrators.listener.cutters import CUTTERS, Cutter
from concentrators.listener.figures import TOLD_EVERY_S, Figures
from concentrators.listener.gatherer import Gatherer
from keyvault.cose.structures import MalformedError

logger = logging.getLogger(__name__)

_READ_OCTETS = 4096
_FIGURES_S = 60.0
_HANDSHAKE_S = 10.0


class Limits(NamedTuple):
    """What one sender may do: connections of an address, seconds for a notification to come whole, and of silence."""

    per_address: int = 50
    whole_s: float = 10.0
    idle_s: float = 3_600.0


# The concentrator that a connection's frames are of, by its client certificate; None: it is refused.
Whose = Callable[[Mapping[str, Any] | None], Awaitable[int | None]]


class Listener:
    """Cuts what connections send, and hands it to the gatherer. Nothing is answered: a push wants no answer.

    A connection whose notifications are not committed fast enough is not read any more, until they are.
    """

    def __init__(self, gatherer: Gatherer, link: str, whose: Whose, limits: Limits | None = None) -> None:
        self._gatherer, self._link, self._whose = gatherer, link, whose
        self._limits = limits or Limits()
        self._open: Counter[str] = Counter()
        self._connections: set[asyncio.Task[None]] = set()
        self.counts = gatherer.figures.counts

    async def connected(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Serve one connection until it ends, breaks its limits, or cannot be followed."""
        task = asyncio.current_task()
        assert task is not None  # noqa: S101 - asyncio calls this in a task
        address = str((writer.get_extra_info("peername") or ("",))[0])
        self._connections.add(task)
        self._open[address] += 1
        try:
            if self._open[address] > self._limits.per_address:
                self._refuse(address, f"more than {self._limits.per_address} connections")
                return
            concentrator_id = await self._whose(writer.get_extra_info("peercert"))
            if concentrator_id is None:
                self._refuse(address, "no active concentrator is called as was said, or as its certificate says")
                return
            self.counts["accepted"] += 1
            await self._read(reader, CUTTERS[self._link](), concentrator_id)
        except MalformedError as error:
            self._refuse(address, str(error))
        except TimeoutError:
            self._refuse(address, f"a notification did not come whole within {self._limits.whole_s:g} s, or silence")
        except (DatabaseError, InterfaceError):
            self._refuse(address, "the database does not answer, so that nobody knows whose it is")
        except OSError as error:
            logger.info("a connection from %s broke: %s", address, error.strerror or error)
        finally:
            self._open[address] -= 1
            if not self._open[address]:
                del self._open[address]
            self._connections.discard(task)
            writer.close()
            with suppress(OSError):
                await writer.wait_closed()

    async def end(self) -> None:
        """End all connections; what they have sent whole is with the gatherer."""
        ending = [*self._connections]
        for task in ending:
            task.cancel()
        await asyncio.gather(*ending, return_exceptions=True)

    def open_connections(self) -> int:
        """Return how many connections there are."""
        return len(self._connections)

    async def _read(self, reader: asyncio.StreamReader, cutter: Cutter, concentrator_id: int) -> None:
        loop = asyncio.get_running_loop()
        began_s: float | None = None  # when what is not whole yet began to come
        while True:
            left_s = self._limits.idle_s if began_s is None else began_s + self._limits.whole_s - loop.time()
            octets = await asyncio.wait_for(reader.read(_READ_OCTETS), max(left_s, 0.001))
            if not octets:
                self.counts["cut_off"] += cutter.is_amid()
                return
            whole = cutter.feed(octets)
            self.counts["notifications"] += len(whole)
            if whole:
                await self._gatherer.put(concentrator_id, whole)
            if not cutter.is_amid():
                began_s = None
            elif began_s is None or whole:
                began_s = loop.time()

    def _refuse(self, address: str, why: str) -> None:
        self.counts["refused"] += 1
        logger.warning("a connection from %s was closed: %s", address, why)


async def serve(listener: Listener, gatherer: Gatherer, host: str, port: int, tls: ssl.SSLContext | None) -> None:
    """Listen until SIGTERM or SIGINT; then commit what has come whole. OSError where the address cannot be used."""
    stop = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, stop.set)
    handshake_s = None if tls is None else _HANDSHAKE_S
    server = await asyncio.start_server(listener.connected, host, port, ssl=tls, ssl_handshake_timeout=handshake_s)
    gathering = asyncio.create_task(gatherer.run())
    telling = asyncio.create_task(_keep_told(listener, gatherer))
    logger.info("listening on %s port %s", host, port)
    waiting = asyncio.create_task(stop.wait())
    logged_s = asyncio.get_running_loop().time()
    while not waiting.done() and not gathering.done():
        sd_notify.show()
        await asyncio.wait({waiting, gathering}, timeout=sd_notify.EVERY_S, return_when=asyncio.FIRST_COMPLETED)
        if asyncio.get_running_loop().time() - logged_s >= _FIGURES_S:
            logged_s += _FIGURES_S
            _log(listener)
    server.close()
    waiting.cancel()
    await listener.end()
    telling.cancel()
    gatherer.end()
    await gathering
    _log(listener)
    await asyncio.to_thread(_tell_last, gatherer.figures)


async def _keep_told(listener: Listener, gatherer: Gatherer) -> None:
    """Tell the database the figures again and again; while it is away they are kept."""
    while True:
        await asyncio.sleep(TOLD_EVERY_S)
        try:
            await gatherer.in_database(partial(_tell, gatherer.figures, listener.open_connections()))
        except (DatabaseError, InterfaceError) as error:
            logger.warning("the figures cannot be told now: %s", type(error).__name__)


def _tell(figures: Figures, connections_open: int) -> None:
    close_old_connections()  # one that broke is made anew
    figures.tell(connections_open)


def _tell_last(figures: Figures) -> None:
    try:
        figures.tell(0)
    except (DatabaseError, InterfaceError) as error:
        logger.warning("the last figures could not be told: %s", type(error).__name__)
    finally:
        connections.close_all()


def _log(listener: Listener) -> None:
    told = ", ".join(f"{number:,} {what.replace('_', ' ')}" for what, number in listener.counts.items())
    logger.info("%s connections; so far %s", listener.open_connections(), told)
