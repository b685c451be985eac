"""The second factor of accounts: who needs one, setting it up, verifying it, taking it away.

Every change is an act in the audit chain and fails where that cannot be written.
"""

import math
import secrets

from django.conf import settings
from django.contrib.auth.models import User
from django.db import transaction
from django.utils import timezone
from django_otp.models import Device
from django_otp.plugins.otp_static.models import StaticToken

from ami_headend.signin.models import SECRET_OCTETS, Authenticator, RecoveryCodes, digest_of
from keyvault import rights
from keyvault.audit import chain
from keyvault.audit.chain import Actor

RECOVERY_CODES = 10
_RIGHTS = frozenset(
    {
        rights.PROVISION,
        rights.ROTATE_DEVICE_KEYS,
        rights.COMPROMISE,
        rights.EXPORT_KEYS,
        rights.ROTATE_MASTER_KEY,
        rights.DESTROY_MASTER_KEY,
        rights.DECIDE_APPROVALS,
        "auth.add_user",
        "auth.change_user",
        "auth.delete_user",
    }
)
_ALPHABET = "abcdefghjkmnpqrstuvwxyz23456789"  # without what looks alike
_GROUP = 5


class SecondFactorError(Exception):
    """The second factor cannot be changed as asked; the message says why."""


class WrongCodeError(SecondFactorError):
    """The code is wrong: a guess, which counts as a failed sign-in."""


def is_required(user: User) -> bool:
    """Whether the account may not do without: superusers, and who may act on keys or on other accounts."""
    if not settings.TWO_FACTOR_REQUIRED:
        return False
    return user.is_superuser or not _RIGHTS.isdisjoint(user.get_all_permissions())


def is_set_up(user: User) -> bool:
    """Whether the account has an authenticator: its codes are asked for from then on."""
    return bool(Authenticator.objects.filter(user=user, confirmed=True).exists())


def new_salt() -> str:
    """A fresh salt for an authenticator, in hex; its secret is derived from it."""
    return secrets.token_hex(SECRET_OCTETS)


def candidate(user: User, salt: str) -> Authenticator:
    """The authenticator that a salt makes for a user; not kept anywhere until it is set up."""
    return Authenticator(user=user, key=salt, name="authenticator app")


def set_up(user: User, salt: str, code: str, actor: Actor) -> tuple[Authenticator, list[str]]:
    """Keep the account's first authenticator, which showed a right code. Gives it and the recovery codes.

    SecondFactorError where the code is wrong or an authenticator stands; AuditError or MasterKeyError where
    it cannot be recorded.
    """
    with transaction.atomic():
        User.objects.select_for_update().get(pk=user.pk)
        if is_set_up(user):
            raise SecondFactorError("Another authenticator was set up for this account meanwhile. Sign in with it.")
        return _keep(user, salt, code, "second_factor.set_up", actor)


def replace(user: User, salt: str, code: str, actor: Actor) -> tuple[Authenticator, list[str]]:
    """As ``set_up``, in place of the authenticator that stands; its recovery codes go with it."""
    with transaction.atomic():
        User.objects.select_for_update().get(pk=user.pk)
        Authenticator.objects.filter(user=user).delete()
        return _keep(user, salt, code, "second_factor.replace", actor)


def verify(user: User, code: str) -> Device:
    """The factor that accepted the code, which is spent by it.

    A number is tried as the authenticator's, anything else as a recovery code. WrongCodeError where it is
    not accepted, SecondFactorError where too many were wrong and it must be waited.
    """
    plain = "".join(code.split())
    model = Authenticator if plain.isdecimal() else RecoveryCodes
    with transaction.atomic():
        device = model.objects.select_for_update().filter(user=user, confirmed=True).first()
        if device is not None:
            allowed, why = device.verify_is_allowed()
            if not allowed:
                wait_s = math.ceil((why["locked_until"] - timezone.now()).total_seconds())
                raise SecondFactorError(f"Too many wrong codes: wait {max(1, wait_s)} s, then use the code shown then.")
            if device.verify_token(plain):
                return device
    raise WrongCodeError("This code is not right, or was used already. Wait for the next one.")


def renew_recovery_codes(user: User, actor: Actor) -> list[str]:
    """New recovery codes in place of all that stand."""
    with transaction.atomic():
        codes = _new_codes(user)
        chain.record(actor, "second_factor.recovery_codes", {"account": user.get_username()})
    return codes


def codes_left(user: User) -> int:
    """How many recovery codes the account has left."""
    left: int = StaticToken.objects.filter(device__user=user).count()
    return left


def remove(user: User, actor: Actor) -> bool:
    """Take authenticator and recovery codes away; sessions that they opened end. False where there were none."""
    with transaction.atomic():
        removed = Authenticator.objects.filter(user=user).delete()[0]
        removed += RecoveryCodes.objects.filter(user=user).delete()[0]
        if removed:
            chain.record(actor, "second_factor.remove", {"account": user.get_username()})
    return bool(removed)


def _keep(user: User, salt: str, code: str, act: str, actor: Actor) -> tuple[Authenticator, list[str]]:
    authenticator = candidate(user, salt)
    if not authenticator.verify_token(code):
        raise SecondFactorError("This code is not right. Wait for the next one, and check the phone's clock.")
    codes = _new_codes(user)
    chain.record(actor, act, {"account": user.get_username()})
    return authenticator, codes


def _new_codes(user: User) -> list[str]:
    RecoveryCodes.objects.filter(user=user).delete()
    kept = RecoveryCodes.objects.create(user=user, name="recovery codes")
    codes = ["-".join(_word() for _ in range(2)) for _ in range(RECOVERY_CODES)]
    StaticToken.objects.bulk_create(StaticToken(device=kept, token=digest_of(code)) for code in codes)
    return codes


def _word() -> str:
    return "".join(secrets.choice(_ALPHABET) for _ in range(_GROUP))
