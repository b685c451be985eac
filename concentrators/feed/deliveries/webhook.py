"""Posts a parcel to a URL, signed as messages of alerts are."""

from datetime import datetime

from django.conf import settings

from ami_headend.core import webhook_exchange
from ami_headend.core.refused_addresses import RefusedAddressError
from ami_headend.core.webhook_exchange import WebhookError
from concentrators.feed.deliveries.errors import DeliveryError
from concentrators.feed.deliveries.parcels import Parcel
from concentrators.models import FeedDelivery
from keyvault import webhook_signatures
from keyvault.webhook_signatures import SigningError


def put(delivery: FeedDelivery, parcel: Parcel, now: datetime) -> None:
    """Post a parcel; its name is the id of the message. DeliveryError; MasterKeyError."""
    content = b"".join(parcel.parts or ())
    try:
        signed = webhook_signatures.headers(delivery.secret_owner, parcel.name, content, now)
        headers = {"Content-Type": parcel.media_type, **parcel.about, **signed}
        url = webhook_exchange.check_url(delivery.address)
        webhook_exchange.post(url, content, headers, settings.FEED_EXCHANGE_S, delivery)
    except (RefusedAddressError, WebhookError, SigningError) as error:
        raise DeliveryError(str(error)) from None
