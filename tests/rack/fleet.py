"""A mixed fleet for a cell: simulated meters of many schemes, whose truth the simulator knows.

Its concentrators post, fetch commands, hold hop keys, and are refused or cut off as those of `Poster` are.
"""

import secrets
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from threading import Thread

from django.db import connections
from django.utils import timezone

from concentrators.models import Command, CommandKind
from concentrators.simulator.concentrator import Options
from concentrators.simulator.factory import Factory
from concentrators.simulator.loads import RunRequest, make_plan, parse_schemes
from concentrators.simulator.misbehaviour_kinds import parse_rates
from concentrators.simulator.plan import Plan
from concentrators.simulator.production import Production
from concentrators.simulator.registration import register
from concentrators.simulator.run import Run
from concentrators.simulator.spool import Spool
from concentrators.simulator.truth import compare, wait_until_verified
from keyvault.cose.structures import parse_frame
from meters.readings.obis import COMMAND_DONE, COMMAND_REFUSED

PLAIN = ("ccm", "session", "mac", "hop", "sealed")  # say plain values, and take every command
SCHEMES = ",".join((*PLAIN, "ccm + signed", "session + signed", "mac + masked", "ccm + masked", "dlms"))
_METERS, _CONCENTRATORS, _MINUTES, _DAYS = 20, 2, 15, 2
_SPEED = 400.0  # simulated seconds in a second: two days last seven minutes, which no cell does
_MISBEHAVIOUR = "all=0.005"


class ObservedSpool(Spool):
    """Notes the commands that concentrators pass on, and fails where a nonce has sealed something else before."""

    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        self.nonces: dict[tuple[bytes, int], bytes] = {}

    def post_mail(self, concentrator: int, system_title: bytes, octets: bytes, fault: str, due_s: float) -> None:
        frame = parse_frame(octets)
        assert self.nonces.setdefault((frame.kid, frame.counter), octets) == octets, "a nonce was used twice"
        super().post_mail(concentrator, system_title, octets, fault, due_s)


@dataclass
class Fleet:
    """The fleet of one cell: it runs from `start` to `stop`; `assert_true` compares it with the database."""

    base_url: str
    folder: Path
    error: BaseException | None = None
    _thread: Thread = field(init=False, repr=False)

    def __post_init__(self) -> None:
        wish = RunRequest(
            concentrators=_CONCENTRATORS,
            meters=_METERS,
            days=_DAYS,
            interval_minutes=[_MINUTES],
            endless=True,
            rates=parse_rates(_MISBEHAVIOUR),
            schemes=parse_schemes(SCHEMES),
        )
        self.plan, self._load = make_plan(wish, timezone.now())
        secret = secrets.token_bytes(32)
        self._spool = ObservedSpool(self.folder)
        entered = register(self.plan, secret)
        self._factory = Factory(self.plan, secret, bytes.fromhex(entered.head_end))
        self._production = Production(self.plan, self._load, self._spool, self._factory)
        options = Options(self.base_url, batch_frames=200, timeout_s=15, commands_every_s=1)
        self._run = Run(self.plan, self._production, self._spool, entered.tokens, options, _SPEED)
        self._thread = Thread(target=self._play, name="fleet")

    def start(self) -> None:
        self._thread.start()

    def is_measuring(self) -> bool:
        """Whether its meters are enrolled and have begun to measure; raises what ended it."""
        self._raise()
        return self._production.tick > 0

    def stop(self) -> None:
        """End measuring; what was measured is posted."""
        self._run.stop.set()

    def give_up(self) -> None:
        """End at once, as nothing will be compared."""
        self._run.give_up.set()
        self._join()
        self._spool.close()

    def assert_true(self, timeout_s: float) -> int:
        """Everything that was sent has the verdict and the effect that it must have; returns how many frames that was.

        Each command was answered once under a key, however often it came.
        """
        self._thread.join(timeout_s)
        assert not self._thread.is_alive(), f"the fleet has not posted everything within {timeout_s:.0f} s"
        self._raise()
        connections.close_all()
        wait_until_verified(self._spool, timeout_s, lambda _: None, lambda: False)
        closing = compare(self.plan, self._load, self._spool, self._factory)
        assert closing.differences == [], "\n".join(closing.differences)
        answers = Counter(one.value for one in self._spool.said() if one.register in (COMMAND_DONE, COMMAND_REFUSED))
        twice = {number: count for number, count in answers.items() if count > may_be_answered(number)}
        assert not twice, f"commands by number, with how often they were answered: {twice}"
        self._spool.close()
        return closing.lines[0].expected

    def _play(self) -> None:
        try:
            self._run.play(lambda _: None)
        except BaseException as error:  # noqa: BLE001 - whoever waits for it raises it
            self.error = error

    def _join(self) -> None:
        if self._thread.ident is not None:
            self._thread.join()

    def _raise(self) -> None:
        if self.error is not None:
            raise self.error


def may_be_answered(number: int) -> int:
    """How often at most: once, and once more for each new key while it was open, as it is then sealed again."""
    command = Command.objects.get(pk=number)
    keys = Command.objects.filter(meter=command.meter_id, kind=CommandKind.SET_KEY, ended_at__gte=command.created_at)
    return 1 + keys.count()


def obeying(plan: Plan) -> list[str]:
    """System titles of the meters that take every command, a new key among them, in hexadecimal."""
    return [
        plan.system_title(number).hex()
        for number in range(len(plan.meters))
        if plan.takes_commands(number) and plan.scheme_of(number) in PLAIN and plan.source_of(number) != "enrolled"
    ]
