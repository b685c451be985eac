"""Signatures of webhooks, with a secret that the head-end shares with each receiver.

As in Standard Webhooks 1.0.0: HMAC-SHA-256 over ``id.timestamp.body``, which libraries for many languages verify. The
secret is wrapped under the master key, and shown once, when it is made.
"""

import base64
import hmac
import secrets
from datetime import datetime, timedelta

from django.db import transaction
from django.db.models import Q

from keyvault import master_key
from keyvault.master_key import Purpose, UnwrapError
from keyvault.master_key.rotation_lock import keys_for_wrapping
from keyvault.master_key.secret_wrapping import SECRET_OCTETS
from keyvault.models import SigningSecret

BOTH_SIGN_FOR = timedelta(hours=24)  # time to give the new secret to the receiver after a rotation
_PREFIX = "whsec_"


class SigningError(Exception):
    """Nothing can be signed for an owner: it has no secret, or its row was changed. Rotate the secret."""


@transaction.atomic
def issue(owner: str, now: datetime) -> str:
    """Make a new secret for ``owner`` and return it as the text for its receiver; it is shown only once.

    The previous secret also signs for BOTH_SIGN_FOR. MasterKeyError if nothing can be wrapped.
    """
    octets = secrets.token_bytes(SECRET_OCTETS)
    master = keys_for_wrapping()
    standing = SigningSecret.objects.select_for_update().filter(owner=owner)
    standing.filter(expires_at__lte=now).delete()
    standing.filter(expires_at=None).update(expires_at=now + BOTH_SIGN_FOR)
    SigningSecret.objects.create(
        owner=owner,
        wrapped=master.wrap(octets, Purpose.SIGNING_SECRET, owner.encode()),
        master_key_version=master.active_version,
        created_at=now,
    )
    return _PREFIX + base64.b64encode(octets).decode()


def withdraw(owner: str) -> None:
    """Delete every secret of ``owner``."""
    SigningSecret.objects.filter(owner=owner).delete()


def headers(owner: str, message_id: str, body: bytes, now: datetime) -> dict[str, str]:
    """Return the headers that sign a message now; raises as ``signatures`` does."""
    timestamp_s = int(now.timestamp())
    return {
        "webhook-id": message_id,
        "webhook-timestamp": str(timestamp_s),
        "webhook-signature": signatures(owner, message_id, timestamp_s, body, now),
    }


def signatures(owner: str, message_id: str, timestamp_s: int, body: bytes, now: datetime) -> str:
    """Sign a message with each valid secret, the newest first: ``v1,<base64> v1,<base64>``.

    SigningError if there is no secret, or it does not open; MasterKeyError if the master key cannot be used now.
    """
    rows = SigningSecret.objects.filter(Q(expires_at=None) | Q(expires_at__gt=now), owner=owner).order_by("-pk")
    master = master_key.current()
    signed = f"{message_id}.{timestamp_s}.".encode() + body
    found = []
    for row in rows:
        try:
            secret = master.unwrap(bytes(row.wrapped), Purpose.SIGNING_SECRET, owner.encode())
        except UnwrapError as error:
            raise SigningError(f"the {row} does not open: {error}") from None
        found.append("v1," + base64.b64encode(hmac.digest(secret, signed, "sha256")).decode())
    if not found:
        raise SigningError(f"there is no signing secret of {owner}")
    return " ".join(found)
