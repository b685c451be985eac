"""The second factor of accounts: who needs one, set-up, verification, removal.

Every change is recorded in the audit chain; if that fails, nothing is changed.
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
        "api_tokens.add_apitoken",
        "api_tokens.change_apitoken",  # a rotation shows the new secret
        "auth.add_group",
        "auth.change_group",
        "auth.add_user",
        "auth.change_user",
        "auth.delete_user",
        "concentrators.add_feeddelivery",  # sends readings to wherever it says
        "concentrators.change_feeddelivery",
    }
)
_ALPHABET = "abcdefghjkmnpqrstuvwxyz23456789"  # without characters that look alike
_GROUP = 5


class SecondFactorError(Exception):
    """The second factor cannot be changed as requested; the message says why."""


class WrongCodeError(SecondFactorError):
    """The code is wrong: a guess, which counts as a failed sign-in."""


def is_required(user: User) -> bool:
    """Whether the account must have one: superusers, and everyone who may act on keys or on other accounts."""
    if not settings.TWO_FACTOR_REQUIRED:
        return False
    return user.is_superuser or not _RIGHTS.isdisjoint(user.get_all_permissions())


def is_set_up(user: User) -> bool:
    """Whether the account has an authenticator, whose codes it must then use."""
    return bool(Authenticator.objects.filter(user=user, confirmed=True).exists())


def new_salt() -> str:
    """Return a new salt for an authenticator, in hex; its secret is derived from it."""
    return secrets.token_hex(SECRET_OCTETS)


def candidate(user: User, salt: str) -> Authenticator:
    """Return the authenticator of a salt and a user; it is stored only when it is set up."""
    return Authenticator(user=user, key=salt, name="authenticator app")


def set_up(user: User, salt: str, code: str, actor: Actor) -> tuple[Authenticator, list[str]]:
    """Store the account's first authenticator, which showed a right code. Return it with the recovery codes.

    SecondFactorError if the code is wrong or the account has an authenticator; AuditError or MasterKeyError if it
    cannot be recorded.
    """
    with transaction.atomic():
        User.objects.select_for_update().get(pk=user.pk)
        if is_set_up(user):
            raise SecondFactorError(
                "Another authenticator has been set up for this account meanwhile. Sign in with it."
            )
        return _keep(user, salt, code, "second_factor.set_up", actor)


def replace(user: User, salt: str, code: str, actor: Actor) -> tuple[Authenticator, list[str]]:
    """Do the same as ``set_up``, but replace the present authenticator and its recovery codes."""
    with transaction.atomic():
        User.objects.select_for_update().get(pk=user.pk)
        Authenticator.objects.filter(user=user).delete()
        return _keep(user, salt, code, "second_factor.replace", actor)


def verify(user: User, code: str) -> Device:
    """Return the factor that accepted the code; the code cannot be used again.

    A number is tried as the authenticator's, any other text as a recovery code. WrongCodeError if it is not accepted;
    SecondFactorError if too many were wrong and the next attempt must wait.
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
    raise WrongCodeError("This code is wrong or was used before. Wait for the next one.")


def renew_recovery_codes(user: User, actor: Actor) -> list[str]:
    """Return new recovery codes, which replace all present ones."""
    with transaction.atomic():
        codes = _new_codes(user)
        chain.record(actor, "second_factor.recovery_codes", {"account": user.get_username()})
    return codes


def codes_left(user: User) -> int:
    """Return the number of unused recovery codes of the account."""
    left: int = StaticToken.objects.filter(device__user=user).count()
    return left


def remove(user: User, actor: Actor) -> bool:
    """Remove authenticator and recovery codes; sessions opened with them end. False if there were none."""
    with transaction.atomic():
        removed = Authenticator.objects.filter(user=user).delete()[0]
        removed += RecoveryCodes.objects.filter(user=user).delete()[0]
        if removed:
            chain.record(actor, "second_factor.remove", {"account": user.get_username()})
    return bool(removed)


def _keep(user: User, salt: str, code: str, act: str, actor: Actor) -> tuple[Authenticator, list[str]]:
    authenticator = candidate(user, salt)
    if not authenticator.verify_token(code):
        raise SecondFactorError("This code is wrong. Wait for the next one, and check the phone's clock.")
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
