"""Posts a signed message about an alert to the address of a channel."""

import json
from datetime import datetime
from typing import Any

from django.conf import settings

from ami_headend.alerts.models import Channel
from ami_headend.core import webhook_exchange
from keyvault import webhook_signatures


def post(channel: Channel, message_id: str, body: dict[str, Any], now: datetime) -> None:
    """Sign and send one message, within ``ALERT_EXCHANGE_S`` seconds whatever the receiver does.

    WebhookError or RefusedAddressError if it was not taken; SigningError, MasterKeyError if it cannot be signed.
    """
    url = webhook_exchange.check_url(channel.address)
    content = json.dumps(body, separators=(",", ":"), sort_keys=True).encode()
    signed = webhook_signatures.headers(channel.secret_owner, message_id, content, now)
    headers = {"Content-Type": "application/json", **signed}
    webhook_exchange.post(url, content, headers, settings.ALERT_EXCHANGE_S, channel)
