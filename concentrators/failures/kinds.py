"""The possible verdicts of a frame, and the severity of each failure. Pure: no Django."""

from enum import StrEnum

from meters.codes.severity import Severity as Severity  # noqa: PLC0414 - others know it from here


class FailureKind(StrEnum):
    """The reason why a frame was rejected (docs/architecture.md says what each means)."""

    MALFORMED = "malformed"
    UNKNOWN_DEVICE = "unknown_device"
    UNKNOWN_EPOCH = "unknown_epoch"
    KEY_RETIRED = "key_retired"
    ALGORITHM_MISMATCH = "algorithm_mismatch"
    TAG_INVALID = "tag_invalid"
    REPLAYED = "replayed"
    COUNTER_REUSED = "counter_reused"
    COUNTER_TOO_OLD = "counter_too_old"
    SESSION_CLOSED = "session_closed"
    DEVICE_SUSPENDED = "device_suspended"
    PAYLOAD_INVALID = "payload_invalid"
    UNKNOWN_PROFILE = "unknown_profile"
    UNKNOWN_REGISTER = "unknown_register"
    REGISTRY_MISMATCH = "registry_mismatch"
    IMPLAUSIBLE = "implausible"
    IDENTITY_MISMATCH = "identity_mismatch"
    CLOCK_SKEW = "clock_skew"
    TOO_OLD = "too_old"
    READING_CONFLICT = "reading_conflict"
    CERTIFICATE_INVALID = "certificate_invalid"
    CERTIFICATE_EXPIRED = "certificate_expired"
    CERTIFICATE_REVOKED = "certificate_revoked"
    ALREADY_ENROLLED = "already_enrolled"
    COUPON_UNKNOWN = "coupon_unknown"
    SIGNATURE_INVALID = "signature_invalid"
    COUPON_REUSED = "coupon_reused"
    PARKED = "parked"  # a fault of ours: the frame could not be processed (docs/adr/0003-parked.md)

    @property
    def severity(self) -> Severity:
        return _SEVERITY.get(self, Severity.WARNING)

    @property
    def label(self) -> str:
        """The kind in words, for people."""
        return _LABELS.get(self, self.value.replace("_", " "))


# Their reason may pass: a key, a meter, a push profile, a register or a coupon list may come, a meter may return to
# service, a wrong entry of the registry or its bounds may be corrected, a fault of ours may be mended. Such a frame's
# counter stays free, and it is judged again from the stored octets of its uplink.
WAITING = frozenset(
    {
        FailureKind.UNKNOWN_DEVICE,
        FailureKind.UNKNOWN_EPOCH,
        FailureKind.DEVICE_SUSPENDED,
        FailureKind.UNKNOWN_PROFILE,
        FailureKind.UNKNOWN_REGISTER,
        FailureKind.REGISTRY_MISMATCH,
        FailureKind.IMPLAUSIBLE,
        FailureKind.CLOCK_SKEW,
        FailureKind.COUPON_UNKNOWN,
        FailureKind.PARKED,
    }
)
# The meter's clock may be fast, or ours slow: these are judged again only when somebody states that ours was slow, or
# changes an interval length so that intervals end earlier.
NOT_BY_ITSELF = frozenset({FailureKind.CLOCK_SKEW})
# Of frames by which a meter would enrol by certificate.
ENROLMENT = frozenset(
    {
        FailureKind.CERTIFICATE_INVALID,
        FailureKind.CERTIFICATE_EXPIRED,
        FailureKind.CERTIFICATE_REVOKED,
        FailureKind.ALREADY_ENROLLED,
    }
)
# Rejections that do not take the invocation counter.
BEFORE_COUNTER = (
    WAITING
    | ENROLMENT
    | {
        FailureKind.MALFORMED,
        FailureKind.KEY_RETIRED,
        FailureKind.ALGORITHM_MISMATCH,
        FailureKind.TAG_INVALID,
        FailureKind.COUNTER_TOO_OLD,
        FailureKind.SESSION_CLOSED,
    }
)

_SEVERITY = {
    FailureKind.CERTIFICATE_INVALID: Severity.CRITICAL,
    FailureKind.CERTIFICATE_REVOKED: Severity.CRITICAL,
    FailureKind.COUNTER_REUSED: Severity.CRITICAL,
    FailureKind.COUPON_REUSED: Severity.CRITICAL,
    FailureKind.SIGNATURE_INVALID: Severity.CRITICAL,
    FailureKind.TAG_INVALID: Severity.CRITICAL,
    FailureKind.IDENTITY_MISMATCH: Severity.CRITICAL,
    FailureKind.PARKED: Severity.CRITICAL,
    FailureKind.REPLAYED: Severity.WARNING,
    FailureKind.UNKNOWN_EPOCH: Severity.INFO,
    FailureKind.DEVICE_SUSPENDED: Severity.INFO,
    FailureKind.TOO_OLD: Severity.INFO,
}

_LABELS = {
    FailureKind.UNKNOWN_DEVICE: "unknown meter",
    FailureKind.UNKNOWN_EPOCH: "unknown key epoch",
    FailureKind.KEY_RETIRED: "retired key",
    FailureKind.ALGORITHM_MISMATCH: "other algorithm",
    FailureKind.TAG_INVALID: "invalid tag",
    FailureKind.DEVICE_SUSPENDED: "meter not in service",
    FailureKind.PAYLOAD_INVALID: "invalid payload",
    FailureKind.UNKNOWN_PROFILE: "unknown push profile",
    FailureKind.REGISTRY_MISMATCH: "other than registered",
    FailureKind.IMPLAUSIBLE: "implausible value",
    FailureKind.IDENTITY_MISMATCH: "names another meter",
    FailureKind.CLOCK_SKEW: "clock ahead",
    FailureKind.TOO_OLD: "before the retention period",
    FailureKind.READING_CONFLICT: "conflicting reading",
    FailureKind.COUPON_UNKNOWN: "unknown coupon",
    FailureKind.SIGNATURE_INVALID: "invalid signature",
    FailureKind.COUPON_REUSED: "coupon used twice",
}
