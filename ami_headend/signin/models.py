"""Second factors of accounts, their sessions, and the journal of sign-ins.

No secret of a second factor is stored: codes of a phone are computed from SECRET_KEY and a random salt, and a recovery
code is stored as a keyed digest. A dump of the database holds neither.
"""

from base64 import b32encode
from datetime import UTC, datetime
from typing import Any

from django.contrib.auth.models import User
from django.contrib.sessions.base_session import AbstractBaseSession
from django.db import models
from django.utils import timezone
from django.utils.crypto import salted_hmac
from django_otp.plugins.otp_static.models import StaticDevice
from django_otp.plugins.otp_totp.models import TOTPDevice

from ami_headend.core import clock
from ami_headend.signin.session_store import SessionStore

SECRET_OCTETS = 20  # RFC 4226 section 4, R6
_TOKEN_CHARACTERS = 16  # 64 bits of digest: the width of django-otp's column
_FAILURES_MAX = 9


_Mixin: Any = object  # in front of a device of django-otp; a proxy takes no second model


class _Throttled(_Mixin):  # type: ignore[misc]
    """After n wrong codes, accepts the next one after 2^(n-1) seconds, at most 256.

    Without the bound, somebody who knows a password could keep its owner out for years. A failure that lies in the
    future because the clock was ahead is forgotten, so that nobody waits until then.
    """

    throttling_failure_count: int

    def verify_is_allowed(self) -> tuple[bool, dict[str, Any] | None]:
        failed_at = self.throttling_failure_timestamp
        if failed_at is not None and clock.is_ahead(failed_at, timezone.now()):
            self.throttle_reset(commit=False)
        allowed: tuple[bool, dict[str, Any] | None] = super().verify_is_allowed()
        return allowed

    def throttle_increment(self, commit: bool = True) -> None:
        super().throttle_increment(commit=False)
        self.throttling_failure_count = min(self.throttling_failure_count, _FAILURES_MAX)
        if commit and self.pk is not None:
            self.save()


class Authenticator(_Throttled, TOTPDevice):  # type: ignore[misc]
    """An authenticator app: codes of six digits, each valid for 30 seconds (RFC 6238) and accepted once.

    ``key`` is the salt from which, together with SECRET_KEY, the app's secret is derived: a change of SECRET_KEY voids
    every authenticator and recovery code.
    """

    class Meta:
        proxy = True

    @property
    def bin_key(self) -> bytes:
        return salted_hmac("ami_headend.signin.authenticator", self.key, algorithm="sha256").digest()[:SECRET_OCTETS]

    @property
    def secret(self) -> str:
        """The secret for typing into an app, in base 32."""
        return b32encode(self.bin_key).decode()


class RecoveryCodes(_Throttled, StaticDevice):  # type: ignore[misc]
    """The recovery codes of an account, each valid for one sign-in; stored as keyed digests."""

    class Meta:
        proxy = True

    def verify_token(self, token: str) -> bool:
        return bool(super().verify_token(digest_of(token)))


def digest_of(code: str) -> str:
    """Return the stored digest of a recovery code; spaces, hyphens and case do not matter."""
    plain = "".join(character for character in code.lower() if character.isalnum())
    return salted_hmac("ami_headend.signin.recovery", plain, algorithm="sha256").hexdigest()[:_TOKEN_CHARACTERS]


class Session(AbstractBaseSession):
    """A session, stored by the SHA-256 of its key, with details for its owner; they are empty while nobody is signed
    in.

    ``address`` is where it was last used, ``browser`` the User-Agent when it began. ``began_s`` and ``used_s`` are Unix
    times of its beginning and of its last use, to the minute.
    """

    session_key = models.CharField(max_length=64, primary_key=True)
    account = models.ForeignKey(User, models.CASCADE, null=True, related_name="+")
    address = models.CharField(max_length=45, blank=True)
    browser = models.CharField(max_length=200, blank=True)
    began_s = models.FloatField(default=0)
    used_s = models.FloatField(default=0)
    issuer = models.CharField(max_length=500, blank=True, db_default="", help_text="provider that let its user in")
    provider_session = models.CharField(
        max_length=255, blank=True, db_default="", db_index=True, help_text="the session there (sid), if it was said"
    )

    def __str__(self) -> str:
        return f"session from {self.address or 'an unknown address'}"

    @property
    def began_at(self) -> datetime:
        """The time when it began."""
        return datetime.fromtimestamp(self.began_s, UTC)

    @property
    def used_at(self) -> datetime:
        """The time of its last use, to the minute."""
        return datetime.fromtimestamp(self.used_s, UTC)

    @classmethod
    def get_session_store_class(cls) -> "type[SessionStore]":
        return SessionStore


class SignInOutcome(models.TextChoices):
    """The outcome of an attempt to sign in."""

    SIGNED_IN = "signed_in", "signed in"
    RECOVERY_CODE = "recovery_code", "signed in with a recovery code"
    WRONG_PASSWORD = "wrong_password", "wrong name or password"
    WRONG_CODE = "wrong_code", "wrong second factor"
    LOCKED_OUT = "locked_out", "locked out"
    REFUSED = "refused", "API refused: needs two factors"
    PROVIDER = "provider", "signed in at the provider"
    PROVIDER_REFUSED = "provider_refused", "refused after the provider"
    PASSWORDS_OFF = "passwords_off", "refused: passwords are turned off"
    BREAK_GLASS = "break_glass", "signed in with the break-glass account"


class ProviderLogout(models.Model):
    """A logout that the OpenID provider told of: which token said so, whose it was, and which session there ended."""

    id = models.BigAutoField(primary_key=True)
    issuer = models.CharField(max_length=500)
    token_id = models.CharField(max_length=255, help_text="its jti")
    subject = models.CharField(max_length=255, blank=True)
    session = models.CharField(max_length=255, blank=True, help_text="its sid")
    told_at = models.DateTimeField()

    class Meta:
        constraints = [models.UniqueConstraint(fields=["issuer", "token_id"], name="provider_logout_once")]

    def __str__(self) -> str:
        return f"logout {self.pk} of {self.subject or self.session}"


class FederatedIdentity(models.Model):
    """Who at the OpenID provider an account belongs to: a subject of an issuer, which never becomes somebody else."""

    user = models.OneToOneField(User, models.CASCADE, related_name="+")
    issuer = models.CharField(max_length=500)
    subject = models.CharField(max_length=255)
    linked_at = models.DateTimeField()
    signed_in_at = models.DateTimeField(null=True)

    class Meta:
        verbose_name_plural = "federated identities"
        constraints = [models.UniqueConstraint(fields=["issuer", "subject"], name="signin_one_account_a_subject")]

    def __str__(self) -> str:
        return f"{self.subject} at {self.issuer}"


class SignIn(models.Model):
    """Attempts to sign in, by the hour: one row per account, address and outcome, however many there were.

    So a flood of guesses costs rows by addresses and hours, not by guesses. Names without an account are not stored,
    since somebody may have typed a password there: such attempts have an empty name.
    """

    hour = models.DateTimeField()
    account = models.CharField(max_length=150, blank=True)
    address = models.CharField(max_length=45, blank=True)
    outcome = models.CharField(max_length=20, choices=SignInOutcome)
    attempts = models.PositiveIntegerField(default=1)
    first_at = models.DateTimeField()
    last_at = models.DateTimeField(db_index=True)

    class Meta:
        verbose_name = "sign-in"
        constraints = [
            models.UniqueConstraint(fields=["hour", "account", "address", "outcome"], name="signin_one_row_an_hour")
        ]

    def __str__(self) -> str:
        return f"{self.account or 'unknown'} from {self.address or 'nowhere'}: {self.get_outcome_display()}"
