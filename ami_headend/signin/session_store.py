"""Sessions in the database (SESSION_ENGINE), with details by which their owners recognise them.

Only the SHA-256 of a session's key, which the cookie carries, is stored: reading the database opens no session. The key
has 165 random bits, so no salt is needed.
"""

from hashlib import sha256
from typing import TYPE_CHECKING, Any, cast

from django.contrib.auth import SESSION_KEY
from django.contrib.sessions.backends import db
from django.utils import timezone

if TYPE_CHECKING:
    from ami_headend.signin.models import Session

ADDRESS, BROWSER, BEGAN, USED = "sign_in_address", "sign_in_browser", "sign_in_began", "sign_in_used"
PROVIDER, PROVIDER_SESSION = "sign_in_provider", "sign_in_provider_session"


def digest_of(session_key: str) -> str:
    """Return the stored digest of a session's key."""
    return sha256(session_key.encode()).hexdigest()


class SessionStore(db.SessionStore):
    """Django's own store, addressed by digests of keys."""

    @classmethod
    def get_model_class(cls) -> "type[Session]":
        from ami_headend.signin.models import Session  # noqa: PLC0415 - models are loaded after settings

        return Session

    def _get_session_from_db(self) -> "Session | None":
        key = self.session_key
        rows = self.get_model_class().objects.filter(expire_date__gt=timezone.now())
        found = rows.filter(session_key=digest_of(key)).first() if key else None
        if found is None:
            self._session_key = None
        return found

    def exists(self, session_key: str) -> bool:
        return super().exists(digest_of(session_key))

    def delete(self, session_key: str | None = None) -> None:
        key = session_key or self.session_key
        if key is not None:
            super().delete(digest_of(key))

    def create_model_instance(self, data: dict[str, Any]) -> "Session":
        row = cast("Session", super().create_model_instance(data))
        row.session_key = digest_of(row.session_key)
        row.account_id = int(data[SESSION_KEY]) if SESSION_KEY in data else None
        row.address, row.browser = data.get(ADDRESS, ""), data.get(BROWSER, "")
        row.began_s, row.used_s = data.get(BEGAN, 0), data.get(USED, 0)
        row.issuer, row.provider_session = data.get(PROVIDER, ""), data.get(PROVIDER_SESSION, "")
        return row
