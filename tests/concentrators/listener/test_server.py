"""The listener over real sockets: senders that are slow, cut off, wrong or too many; a database that is away."""

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from typing import Any

import pytest
from django.db import OperationalError

from concentrators.listener import gatherer as gathering
from concentrators.listener.figures import Figures
from concentrators.listener.gatherer import Gatherer, NotNowError
from concentrators.listener.server import Limits, Listener, Whose
from tests.concentrators.listener.test_cutters import APDU, blocks_of, hdlc, wrapped

LIMITS = Limits(per_address=3, whole_s=0.3, idle_s=5)


class Received:
    """What reception was given; ``failures`` times it fails first."""

    def __init__(self, failures: int = 0) -> None:
        self.uplinks: list[tuple[int, list[bytes]]] = []
        self.failures = failures

    def __call__(self, concentrator_id: int, frames: Sequence[bytes]) -> None:
        if self.failures:
            self.failures -= 1
            raise OperationalError("the database is away")
        self.uplinks.append((concentrator_id, list(frames)))

    @property
    def frames(self) -> list[bytes]:
        return [frame for _, frames in self.uplinks for frame in frames]


async def anybody(_: Any) -> int:
    return 7


Act = Callable[[int, Listener], Awaitable[None]]


def listening(
    act: Act, received: Callable[..., None], link: str = "wrapper", limits: Limits = LIMITS, whose: Whose = anybody
) -> Listener:
    """Run a listener on a free port while ``act`` does something to it; all that came whole is committed afterwards."""

    async def run() -> Listener:
        gatherer = Gatherer(Figures("here"), received)
        listener = Listener(gatherer, link, whose, limits)
        server = await asyncio.start_server(listener.connected, "127.0.0.1", 0)
        task = asyncio.create_task(gatherer.run())
        await act(server.sockets[0].getsockname()[1], listener)
        server.close()
        await listener.end()
        gatherer.end()
        await task
        return listener

    return asyncio.run(run())


async def send(port: int, *parts: bytes, wait_s: float = 0.0) -> bytes:
    """Send parts on one connection, with a wait after each, and give what was answered until it is closed."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    try:
        for part in parts:
            writer.write(part)
            await writer.drain()
            await asyncio.sleep(wait_s)
        writer.write_eof()
        return await reader.read()
    except OSError:
        return b""
    finally:
        writer.close()


def test_two_senders_are_gathered_and_nothing_is_answered() -> None:
    received = Received()

    async def act(port: int, _: Listener) -> None:
        answers = await asyncio.gather(
            send(port, *[wrapped(APDU)] * 5), send(port, *map(wrapped, blocks_of(APDU))), send(port)
        )
        assert set(answers) == {b""}

    counts = listening(act, received).counts
    assert len(received.frames) == 6
    assert (counts["accepted"], counts["notifications"], counts["committed"], counts["refused"]) == (3, 6, 6, 0)
    assert {concentrator for concentrator, _ in received.uplinks} == {7}
    assert len(received.uplinks) < 6


def test_a_slow_sender_has_its_time_and_no_more() -> None:
    received = Received()
    frame = wrapped(APDU)

    async def act(port: int, listener: Listener) -> None:
        await send(port, frame[:5], frame[5:20], frame[20:] + frame, wait_s=0.05)
        await send(port, *[frame[at : at + 1] for at in range(len(frame))], wait_s=0.05)
        assert listener.counts["refused"] == 1

    listening(act, received)
    assert received.frames == [frame, frame]


def test_garbage_and_what_is_cut_off_cost_their_own_connection_alone() -> None:
    received = Received()

    async def act(port: int, listener: Listener) -> None:
        await asyncio.gather(
            send(port, b"GET / HTTP/1.1\r\n\r\n", wait_s=0.05),
            send(port, wrapped(APDU) + wrapped(APDU)[:-1]),
            send(port, wrapped(APDU)),
        )
        assert listener.counts["cut_off"] == 1
        assert listener.counts["refused"] == 1

    listening(act, received)
    assert received.frames == [wrapped(APDU)] * 2


def test_an_address_has_so_many_connections_and_no_more() -> None:
    received = Received()

    async def act(port: int, listener: Listener) -> None:
        open_ones = [await asyncio.open_connection("127.0.0.1", port) for _ in range(4)]
        assert await open_ones[3][0].read() == b""
        for _, writer in open_ones:
            writer.close()
        while listener.open_connections():
            await asyncio.sleep(0.01)
        await send(port, wrapped(APDU))

    listener = listening(act, received)
    assert listener.counts["refused"] == 1
    assert len(received.frames) == 1


def test_what_came_whole_is_committed_once_the_database_is_back(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gathering, "_FIRST_WAIT_S", 0.01)
    monkeypatch.setattr(gathering, "QUEUED_MAX", 4)
    received = Received(failures=5)

    async def act(port: int, _: Listener) -> None:
        await send(port, *[wrapped(APDU + bytes((n,))) for n in range(50)])

    listening(act, received)
    assert received.frames == [wrapped(APDU + bytes((n,))) for n in range(50)]


def test_what_came_whole_is_committed_though_the_listener_ends_meanwhile(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gathering, "_FIRST_WAIT_S", 0.01)
    monkeypatch.setattr(gathering, "FRAMES", 2)
    monkeypatch.setattr(gathering, "QUEUED_MAX", 4)
    received = Received(failures=5)
    sent = [wrapped(APDU + bytes((n,))) for n in range(30)]

    async def act(port: int, listener: Listener) -> None:
        _, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(b"".join(sent))
        while not listener.counts["notifications"]:
            await asyncio.sleep(0.01)
        writer.close()

    counts = listening(act, received).counts
    assert counts["committed"] == counts["notifications"] > 4
    assert received.frames == sent[: counts["committed"]]


def test_a_concentrator_that_has_to_wait_holds_up_no_other(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gathering, "_FIRST_WAIT_S", 0.01)
    callers = iter((7, 8))
    spent = {7}

    class OneHasToWait(Received):
        def __call__(self, concentrator_id: int, frames: Sequence[bytes]) -> None:
            if concentrator_id in spent:
                raise NotNowError
            super().__call__(concentrator_id, frames)

    received = OneHasToWait()

    async def whose(_: Any) -> int:
        return next(callers)

    async def act(port: int, _: Listener) -> None:
        await send(port, wrapped(APDU))
        await asyncio.sleep(2 * gathering.GATHER_S)
        await send(port, wrapped(APDU))
        for _tries in range(200):
            if received.uplinks:
                break
            await asyncio.sleep(0.02)
        assert received.uplinks == [(8, [wrapped(APDU)])]
        spent.clear()

    listening(act, received, whose=whose)
    assert [concentrator for concentrator, _ in received.uplinks] == [8, 7]


def test_serial_lines_come_as_hdlc() -> None:
    received = Received()

    async def act(port: int, _: Listener) -> None:
        await send(port, b"\x00\xffnoise" + hdlc(APDU[:9], more=True), hdlc(APDU[9:]), wait_s=0.02)

    listening(act, received, "hdlc")
    assert received.frames == [hdlc(APDU[:9], more=True) + hdlc(APDU[9:])]
