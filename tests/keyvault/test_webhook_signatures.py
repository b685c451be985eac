"""Signing secrets: what a receiver verifies, how they rotate, and that they rest wrapped under the master key."""

from datetime import UTC, datetime, timedelta

import pytest
from standardwebhooks import Webhook, WebhookVerificationError

from keyvault import webhook_signatures
from keyvault.audit import chain
from keyvault.master_key import Provider, census, rewrap
from keyvault.models import SigningSecret
from keyvault.webhook_signatures import BOTH_SIGN_FOR, SigningError

pytestmark = pytest.mark.django_db

BODY = b'{"type": "alert.opened"}'


def now() -> datetime:
    return datetime.now(UTC)


def signed(owner: str = "channel 1", at: datetime | None = None, body: bytes = BODY) -> dict[str, str]:
    at = at or now()
    timestamp_s = int(at.timestamp())
    return {
        "webhook-id": "msg_1",
        "webhook-timestamp": str(timestamp_s),
        "webhook-signature": webhook_signatures.signatures(owner, "msg_1", timestamp_s, body, at),
    }


def test_a_receivers_own_library_verifies_it() -> None:
    secret = webhook_signatures.issue("channel 1", now())
    Webhook(secret).verify(BODY, signed())
    for headers, body in (
        (signed(), BODY + b" "),
        ({**signed(), "webhook-id": "msg_2"}, BODY),
        ({**signed(), "webhook-timestamp": str(int(now().timestamp()) + 1)}, BODY),
        (signed(at=now() - timedelta(minutes=6)), BODY),  # a message that is sent again later
    ):
        with pytest.raises(WebhookVerificationError):
            Webhook(secret).verify(body, headers)


def test_after_a_rotation_both_sign_for_a_day() -> None:
    at = now()
    first = webhook_signatures.issue("channel 1", at)
    second = webhook_signatures.issue("channel 1", at)
    assert first != second
    for secret in (first, second):
        Webhook(secret).verify(BODY, signed(at=at))
    newest, _, _ = signed(at=at)["webhook-signature"].partition(" ")
    assert signed(at=at + BOTH_SIGN_FOR)["webhook-signature"].count("v1,") == 1
    Webhook(second).verify(BODY, {**signed(at=at), "webhook-signature": newest})
    webhook_signatures.issue("channel 1", at + BOTH_SIGN_FOR)
    assert SigningSecret.objects.filter(owner="channel 1").count() == 2  # the first is gone


def test_secrets_are_their_owners() -> None:
    webhook_signatures.issue("channel 1", now())
    webhook_signatures.issue("channel 2", now())
    one, two = SigningSecret.objects.order_by("pk")
    SigningSecret.objects.filter(pk=two.pk).update(wrapped=one.wrapped)
    with pytest.raises(SigningError, match="does not open"):
        signed("channel 2")
    webhook_signatures.withdraw("channel 1")
    with pytest.raises(SigningError, match="no signing secret of channel 1"):
        signed("channel 1")


def test_a_rotation_of_the_master_key_takes_them_along(provider: Provider) -> None:
    secret = webhook_signatures.issue("channel 1", now())
    assert secret.encode() not in bytes(SigningSecret.objects.get().wrapped)
    assert census.census()[0].signing_secrets == 1
    rotation = rewrap.begin(None, chain.Actor("tester", "test"))
    while rewrap.rewrap_batch(rotation.pk):
        pass
    assert SigningSecret.objects.get().master_key_version == rotation.to_version
    assert census.verify().faults == []
    Webhook(secret).verify(BODY, signed())
