"""The tables of this app. They contain octets of keys only wrapped."""

from keyvault.models.audit import (
    Approval,
    AuditKey,
    AuditRecord,
)
from keyvault.models.coupons import (
    Coupon,
    CouponDispute,
    CouponList,
    MeterIdentity,
)
from keyvault.models.device_keys import (
    TABLES_OF_A_KEY,
    AgreementKey,
    AgreementState,
    DeviceKey,
    DevicePublicKey,
    DownlinkCounter,
    FleetKey,
    Int8MultiRangeField,
    InvocationCounter,
    KeySource,
    KeyState,
    Session,
    TagFailures,
)
from keyvault.models.enrolment import (
    Authority,
    AwaitedEnrolment,
    Enrolment,
    RevokedCertificate,
)
from keyvault.models.masking import MaskAuthority
from keyvault.models.master_key import (
    Backup,
    MasterKeyRotation,
    RotationState,
    SigningSecret,
)

__all__ = [
    "TABLES_OF_A_KEY",
    "AgreementKey",
    "AgreementState",
    "Approval",
    "AuditKey",
    "AuditRecord",
    "Authority",
    "AwaitedEnrolment",
    "Backup",
    "Coupon",
    "CouponDispute",
    "CouponList",
    "DeviceKey",
    "DevicePublicKey",
    "DownlinkCounter",
    "Enrolment",
    "FleetKey",
    "Int8MultiRangeField",
    "InvocationCounter",
    "KeySource",
    "KeyState",
    "MaskAuthority",
    "MasterKeyRotation",
    "MeterIdentity",
    "RevokedCertificate",
    "RotationState",
    "Session",
    "SigningSecret",
    "TagFailures",
]
