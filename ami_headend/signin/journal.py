"""The journal of sign-ins: every attempt is counted, in rows that a flood cannot multiply."""

from datetime import datetime

from django.contrib.auth.models import User
from django.db import connection
from django.utils import timezone

from ami_headend.core import batches
from ami_headend.signin.models import SignIn, SignInOutcome

_STATEMENT = """
    INSERT INTO signin_signin (hour, account, address, outcome, attempts, first_at, last_at)
    VALUES (%s, %s, %s, %s, 1, %s, %s)
    ON CONFLICT ON CONSTRAINT signin_one_row_an_hour
    DO UPDATE SET attempts = signin_signin.attempts + 1, last_at = excluded.last_at
"""


def record(outcome: SignInOutcome, name: str, address: str) -> None:
    """Count one attempt under the account's name, or under an empty name if no account has it."""
    known = "\0" not in name and User.objects.filter(username=name).exists()
    now = timezone.now()
    hour = now.replace(minute=0, second=0, microsecond=0)
    with connection.cursor() as cursor:
        cursor.execute(_STATEMENT, [hour, name if known else "", address[:45], outcome.value, now, now])


def purge(before: datetime) -> int:
    """Remove rows last counted before a time; return their number."""
    return batches.delete(SignIn.objects.filter(last_at__lt=before).order_by("last_at", "pk"))


def of_account(name: str, limit: int) -> list[SignIn]:
    """Return the latest rows of an account."""
    return list(SignIn.objects.filter(account=name).order_by("-last_at")[:limit])
