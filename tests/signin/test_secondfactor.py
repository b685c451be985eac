"""Second factors as the domain sees them: who needs one, what is taken, what is kept, what is recorded."""

from pathlib import Path

import pytest
from django.contrib.auth.models import Permission, User
from django.db import connection
from pytest_django.fixtures import Settings

from ami_headend.signin import roles, secondfactor
from ami_headend.signin.models import Authenticator, RecoveryCodes
from ami_headend.signin.secondfactor import SecondFactorError, WrongCodeError
from keyvault.audit import chain
from keyvault.master_key import MasterKeyError
from keyvault.models import AuditRecord
from tests.signin.people import ACTOR, code, enrolled, member, officer, wrong

pytestmark = pytest.mark.django_db


def recorded() -> list[str]:
    return [row.act for row in AuditRecord.objects.order_by("number") if row.act.startswith("second_factor.")]


@pytest.mark.parametrize(
    ("role", "needs_one"),
    [(roles.OPERATOR, False), (roles.AUDITOR, False), (roles.KEY_OFFICER, True), (roles.ADMINISTRATOR, True)],
)
def test_who_may_act_on_keys_or_accounts_needs_one(role: str, needs_one: bool, settings: Settings) -> None:
    assert secondfactor.is_required(member("someone", role)) is needs_one
    settings.TWO_FACTOR_REQUIRED = False
    assert not secondfactor.is_required(User.objects.get())


def test_superusers_and_those_with_one_right_of_their_own_need_one() -> None:
    assert secondfactor.is_required(User.objects.create_superuser("root"))
    user = member("someone", roles.OPERATOR)
    user.user_permissions.add(Permission.objects.get(codename="rotate_devicekey"))
    assert secondfactor.is_required(User.objects.get(pk=user.pk))


def test_a_code_is_taken_once() -> None:
    user = officer()
    secret, _ = enrolled(user)
    with pytest.raises(WrongCodeError):
        secondfactor.verify(user, code(secret))  # spent by the set-up
    Authenticator.objects.update(throttling_failure_count=0, throttling_failure_timestamp=None)
    assert isinstance(secondfactor.verify(user, code(secret, 1)), Authenticator)
    with pytest.raises(WrongCodeError):
        secondfactor.verify(user, code(secret, 1))


def test_a_recovery_code_is_taken_once_however_it_is_written() -> None:
    user = officer()
    _, codes = enrolled(user)
    assert secondfactor.codes_left(user) == len(codes) == len(set(codes)) == secondfactor.RECOVERY_CODES
    assert isinstance(secondfactor.verify(user, f" {codes[0].upper().replace('-', ' ')} "), RecoveryCodes)
    assert secondfactor.codes_left(user) == len(codes) - 1
    with pytest.raises(WrongCodeError):
        secondfactor.verify(user, codes[0])


@pytest.mark.parametrize(
    "right",
    ["api_tokens.change_apitoken", "concentrators.change_feeddelivery", "auth.change_group", "auth.add_group"],
)
def test_a_role_of_ones_own_with_such_a_right_needs_one(right: str) -> None:
    app, _, codename = right.partition(".")
    user = member("someone")
    user.user_permissions.add(Permission.objects.get(content_type__app_label=app, codename=codename))
    assert secondfactor.is_required(user)


def test_codes_of_another_account_are_not_taken() -> None:
    user, other = officer("one"), officer("other")
    enrolled(user)
    secret, codes = enrolled(other)
    for theirs in (code(secret, 1), codes[0]):
        with pytest.raises(WrongCodeError):
            secondfactor.verify(user, theirs)


def test_guesses_are_slowed_down_and_never_keep_the_owner_out_for_long() -> None:
    user = officer()
    secret, _ = enrolled(user)
    for _ in range(40):
        Authenticator.objects.update(throttling_failure_timestamp=None)
        with pytest.raises(WrongCodeError):
            secondfactor.verify(user, wrong(secret))
    with pytest.raises(SecondFactorError, match=r"wait (25\d) s") as refused:
        secondfactor.verify(user, code(secret, 1))
    assert not isinstance(refused.value, WrongCodeError)


def test_a_dump_holds_neither_secret_nor_recovery_code(settings: Settings) -> None:
    user = officer()
    secret, codes = enrolled(user)
    with connection.cursor() as cursor:
        cursor.execute(
            "SELECT t::text FROM otp_totp_totpdevice t UNION ALL SELECT t::text FROM otp_static_statictoken t"
        )
        dump = "\n".join(row[0] for row in cursor.fetchall())
    authenticator = Authenticator.objects.get()
    assert authenticator.bin_key.hex() not in dump
    assert secret not in dump
    assert not [one for one in codes if one in dump or one.replace("-", "") in dump]
    settings.SECRET_KEY = "another"
    assert authenticator.secret != secret


def test_set_up_needs_a_right_code_and_no_standing_authenticator() -> None:
    user, salt = officer(), secondfactor.new_salt()
    secret = secondfactor.candidate(user, salt).secret
    with pytest.raises(SecondFactorError, match="is wrong"):
        secondfactor.set_up(user, salt, wrong(secret), ACTOR)
    assert not secondfactor.is_set_up(user)
    secondfactor.set_up(user, salt, code(secret), ACTOR)
    other = secondfactor.new_salt()
    with pytest.raises(SecondFactorError, match="meanwhile"):
        secondfactor.set_up(user, other, code(secondfactor.candidate(user, other).secret), ACTOR)
    assert Authenticator.objects.get().secret == secret


def test_every_change_is_in_the_audit_chain() -> None:
    user = officer()
    _, codes = enrolled(user)
    salt = secondfactor.new_salt()
    secret = secondfactor.candidate(user, salt).secret
    _, fresh = secondfactor.replace(user, salt, code(secret), ACTOR)
    with pytest.raises(WrongCodeError):
        secondfactor.verify(user, codes[0])
    newest = secondfactor.renew_recovery_codes(user, ACTOR)
    assert not set(fresh) & set(newest)
    assert secondfactor.remove(user, ACTOR)
    assert not secondfactor.remove(user, ACTOR)
    assert not secondfactor.is_set_up(user)
    assert secondfactor.codes_left(user) == 0
    acts = ["set_up", "replace", "recovery_codes", "remove"]
    assert recorded() == [f"second_factor.{act}" for act in acts]
    assert chain.verify().number == AuditRecord.objects.count()


def test_nothing_changes_that_cannot_be_recorded(settings: Settings, tmp_path: Path) -> None:
    user = officer()
    secret, codes = enrolled(user)
    settings.MASTER_KEY_FILE = tmp_path / "gone"
    for act in (secondfactor.remove, secondfactor.renew_recovery_codes):
        with pytest.raises((chain.AuditError, MasterKeyError)):
            act(user, ACTOR)
    assert secondfactor.verify(user, code(secret, 1))
    assert secondfactor.verify(user, codes[3])
