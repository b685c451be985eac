"""Why a parcel was not taken."""


class DeliveryError(Exception):
    """It was not taken; the message says why and what to do. It is sent again later."""
