"""Why a frame was not opened, a meter not enrolled, a signature not taken: the verdicts that keyvault gives. Pure."""

from enum import StrEnum


class Refusal(StrEnum):
    """Why a frame was not opened, in the order of the checks."""

    MALFORMED = "malformed"
    UNKNOWN_DEVICE = "unknown_device"
    UNKNOWN_EPOCH = "unknown_epoch"
    KEY_RETIRED = "key_retired"
    ALGORITHM_MISMATCH = "algorithm_mismatch"
    TAG_INVALID = "tag_invalid"
    PARKED = "parked"  # a fault of the head-end: the stored key does not open


class EnrolmentRefusal(StrEnum):
    """Why a meter was not enrolled by its certificate."""

    CERTIFICATE_INVALID = "certificate_invalid"
    CERTIFICATE_EXPIRED = "certificate_expired"
    CERTIFICATE_REVOKED = "certificate_revoked"
    ALREADY_ENROLLED = "already_enrolled"


class CouponRefusal(StrEnum):
    """Why an authentic payload that a meter signed, or its coupon list, is refused."""

    PAYLOAD_INVALID = "payload_invalid"
    IDENTITY_MISMATCH = "identity_mismatch"
    COUPON_UNKNOWN = "coupon_unknown"
    SIGNATURE_INVALID = "signature_invalid"
    COUPON_REUSED = "coupon_reused"
