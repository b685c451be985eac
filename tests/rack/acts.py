"""People and programs at work while something fails: commands, new keys, tokens, over REST, and the truth at the end.

A fault may refuse an act, or leave open whether it was done. What was acknowledged must stand.
"""

import secrets
import threading
from collections import Counter
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from functools import partial
from itertools import count
from typing import Any

import httpx
from django.contrib.auth.models import Group, User
from django.db import DatabaseError, connections

from concentrators.models import Command, CommandState
from keyvault.models import DeviceKey, KeyState
from tests.flows.stack import TRUSTED, wait_for

REFUSALS = (429, 502, 503, 504)
IN_DOUBT = "in doubt"  # refused, or nobody knows
_PAUSE_S = 0.5
_ROLES = ("operator", "key officer", "administrator")
_IN_USE = (KeyState.ACTIVE, KeyState.RETIRING)


@dataclass
class Given:
    """A token: its secret; whether its revocation was acknowledged, None if it was never asked for."""

    secret: str
    revoked: bool | None = None


@dataclass
class Acts:
    """One act after the other, in turn for each meter (its title in hexadecimal)."""

    base_url: str
    meters: Sequence[str]
    answers: Counter[str] = field(default_factory=Counter)
    commands: list[int] = field(default_factory=list)  # acknowledged
    epochs: list[tuple[str, int]] = field(default_factory=list)  # (meter, epoch) of acknowledged new keys
    tokens: dict[int, Given] = field(default_factory=dict)
    ended: threading.Event = field(default_factory=threading.Event)

    def __post_init__(self) -> None:
        self._number = count(1)
        self._name, password = f"rack-{secrets.token_hex(4)}", secrets.token_urlsafe()
        account = User.objects.create_user(self._name, password=password)
        account.groups.set(Group.objects.filter(name__in=_ROLES))
        self._client = httpx.Client(
            base_url=f"{self.base_url}/api/v1/", auth=(self._name, password), timeout=15, verify=TRUSTED
        )

    def run(self) -> None:
        """Act until the end."""
        turns: list[Callable[[str], None]] = [self._read_now, self._new_key, self._new_token, self._revoke_token]
        with self._client:
            for number in count():
                meter = self.meters[number % len(self.meters)]
                turns[number % len(turns)](meter)
                if self.ended.wait(_PAUSE_S):
                    return

    def assert_true(self, timeout_s: float) -> None:
        """Every acknowledged command is done, every acknowledged key is used, every token opens what it should."""
        connections.close_all()
        self._assert_commands()
        self._assert_tokens(timeout_s)

    def are_commands_done(self) -> bool:
        """Whether every command that was given here has ended, those among them of which nobody knew."""
        connections.close_all()
        mine = Command.objects.filter(created_by=self._name)
        with suppress(DatabaseError):  # the way to the primary breaks once more where its clock is set
            return not mine.exclude(state__in=(CommandState.DONE, CommandState.REFUSED)).exists()
        return False

    def _assert_commands(self) -> None:
        states = dict(Command.objects.filter(created_by=self._name).values_list("pk", "state"))
        lost = sorted(set(self.commands) - set(states))
        assert not lost, f"commands {lost} were acknowledged, and are gone"
        not_done = {number: state for number, state in states.items() if state != CommandState.DONE}
        assert not not_done, f"commands that were not done: {not_done}"
        more = len(states) - len(set(self.commands))
        assert more <= self.answers[IN_DOUBT], f"{more} commands more than were given"
        for meter, epoch in self.epochs:
            key = DeviceKey.objects.get(system_title=bytes.fromhex(meter), epoch=epoch)
            assert key.state in _IN_USE, f"the key of epoch {epoch} of {meter} is {key.state}"

    def _assert_tokens(self, timeout_s: float) -> None:
        for number, given in self.tokens.items():
            allowed = {None: (200,), True: (401,), False: (200, 401)}[given.revoked]
            opens = partial(self._opens, given.secret)
            wait_for(f"token {number} is answered", lambda: opens() not in REFUSALS, timeout_s)  # noqa: B023 - at once
            assert opens() in allowed, f"token {number}, revoked: {given.revoked}"

    def _opens(self, secret: str) -> int:
        """The status of what a token asks for."""
        headers = {"Authorization": f"Bearer {secret}"}
        try:
            address = f"{self.base_url}/api/v1/meters/{self.meters[0]}"
            return httpx.get(address, headers=headers, timeout=15, verify=TRUSTED).status_code
        except httpx.TransportError:
            return REFUSALS[0]

    def _read_now(self, meter: str) -> None:
        answer = self._ask("POST", f"meters/{meter}/commands", 201, {"kind": "read_now"})
        self.commands += [] if answer is None else [one["number"] for one in answer]

    def _new_key(self, meter: str) -> None:
        answer = self._ask("POST", f"meters/{meter}/commands", 201, {"kind": "set_key"})
        for one in answer or []:
            self.commands.append(one["number"])
            self.epochs.append((meter, one["parameters"]["epoch"]))

    def _new_token(self, meter: str) -> None:
        name = f"{self._name} {next(self._number)}"
        answer = self._ask("POST", "tokens", 201, {"name": name, "scopes": ["registry"], "days": 1})
        if answer is not None:
            self.tokens[answer["number"]] = Given(answer["secret"])

    def _revoke_token(self, meter: str) -> None:
        """Revoke the oldest of two or more, so that some stay."""
        good = [number for number, given in self.tokens.items() if given.revoked is not True]
        if len(good) > 1:
            given = self.tokens[good[0]]
            done = self._ask("DELETE", f"tokens/{good[0]}", 204) is not None
            given.revoked = done

    def _ask(self, method: str, path: str, expected: int, body: dict[str, Any] | None = None) -> Any:
        """The answer to an act that was acknowledged, or None where it was refused, or nobody knows."""
        try:
            answer = self._client.request(method, path, json=body)
        except httpx.TransportError as error:
            self._count(type(error).__name__)
            return None
        self._count(str(answer.status_code))
        assert answer.status_code in (expected, *REFUSALS), f"{method} {path}: {answer.status_code} {answer.text}"
        if answer.status_code != expected:
            return None
        return answer.json() if answer.content else {}

    def _count(self, what: str) -> None:
        self.answers[what] += 1
        if not what.startswith("2"):
            self.answers[IN_DOUBT] += 1
