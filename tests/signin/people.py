"""Accounts, their phones, and the codes that those show."""

import hmac
import time
from base64 import b32decode
from collections.abc import Iterator
from contextlib import contextmanager
from unittest import mock

from django.contrib.auth.models import Group, User
from django.http import HttpResponse
from django.test import Client

from ami_headend.signin import roles, secondfactor
from keyvault.audit.chain import Actor

PASSWORD = "a long enough password"
LOGIN = "/admin/login/"
SECOND = "/sign-in/second-factor/"
SET_UP = "/sign-in/set-up/"
ACCOUNT = "/admin/account/sign-in/"
ACTOR = Actor("test", "")
STEP_S = 30


def member(name: str, *role_names: str) -> User:
    """An account of staff with roles."""
    user = User.objects.create_user(name, password=PASSWORD, is_staff=True)
    user.groups.set(Group.objects.filter(name__in=role_names))
    return user


def officer(name: str = "officer") -> User:
    return member(name, roles.KEY_OFFICER)


def code(secret: str, later: int = 0) -> str:
    """What a phone with the secret (base 32) shows now, or some codes later (RFC 6238, RFC 4226 section 5.3)."""
    step = int(time.time()) // STEP_S + later
    digest = hmac.digest(b32decode(secret.replace(" ", "")), step.to_bytes(8, "big"), "sha1")
    offset = digest[-1] & 0xF
    return f"{(int.from_bytes(digest[offset : offset + 4], 'big') & 0x7FFFFFFF) % 10**6:06d}"


def wrong(secret: str) -> str:
    """A code that the phone shows at none of the times that are taken."""
    shown = {code(secret, later) for later in range(-3, 4)}
    return next(guess for guess in (f"{n:06d}" for n in range(10)) if guess not in shown)


def enrolled(user: User) -> tuple[str, list[str]]:
    """The secret on the user's phone, whose code of now was spent, and the recovery codes."""
    salt = secondfactor.new_salt()
    secret = secondfactor.candidate(user, salt).secret
    _, codes = secondfactor.set_up(user, salt, code(secret), ACTOR)
    return secret, codes


def give_password(client: Client, name: str, password: str = PASSWORD, address: str = "127.0.0.1") -> HttpResponse:
    answer = client.post(LOGIN, {"username": name, "password": password}, REMOTE_ADDR=address)
    assert isinstance(answer, HttpResponse)
    return answer


def is_signed_in(client: Client) -> bool:
    return client.get(ACCOUNT).status_code == 200


@contextmanager
def after(seconds: float) -> Iterator[None]:
    """Sessions see a clock that is so far ahead."""
    ahead = time.time() + seconds
    with mock.patch("ami_headend.signin.sessions.time.time", return_value=ahead):
        yield
