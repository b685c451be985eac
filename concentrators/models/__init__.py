"""The tables of this app, a module for each package that owns them."""

from concentrators.models.commands import (
    Command,
    CommandKind,
    CommandLimit,
    CommandState,
    CommandTally,
    LimitSpan,
    RotationWave,
    WaveMeter,
    WaveState,
)
from concentrators.models.conformance import (
    ConformanceRun,
    ConformanceStep,
    LaboratoryOffer,
    RepeatedUplink,
    StepVerdict,
)
from concentrators.models.deadlines import ReadDay, ReadDeadline, ReadShare
from concentrators.models.failures import Acknowledgement, FailureGroup, FailureTally, IntegrityFailure, RefusedFrame
from concentrators.models.feed import DeliveryKind, FeedDelivery, FeedEra, FeedHead, FeedLot, FeedSubscription
from concentrators.models.fleet import (
    Assignment,
    Concentrator,
    ConcentratorInGroup,
    ConcentratorToken,
    HopFailure,
    HopKeySet,
    RegistryGeneration,
)
from concentrators.models.ingest import ClockCorrection, ListenerFigures, Reverification, Uplink
from concentrators.models.masked import MaskedMeter, MaskedSet, MaskQuestion
from concentrators.models.totals import ExpectedStep, IntervalTotal, ReportedSum, StaleSteps, UncomparedSum
from concentrators.models.validation import RegisterDifference, UncheckedDay

__all__ = [
    "Acknowledgement",
    "Assignment",
    "ClockCorrection",
    "Command",
    "CommandKind",
    "CommandLimit",
    "CommandState",
    "CommandTally",
    "Concentrator",
    "ConcentratorInGroup",
    "ConcentratorToken",
    "ConformanceRun",
    "ConformanceStep",
    "DeliveryKind",
    "ExpectedStep",
    "FailureGroup",
    "FailureTally",
    "FeedDelivery",
    "FeedEra",
    "FeedHead",
    "FeedLot",
    "FeedSubscription",
    "HopFailure",
    "HopKeySet",
    "IntegrityFailure",
    "IntervalTotal",
    "LaboratoryOffer",
    "LimitSpan",
    "ListenerFigures",
    "MaskQuestion",
    "MaskedMeter",
    "MaskedSet",
    "ReadDay",
    "ReadDeadline",
    "ReadShare",
    "RefusedFrame",
    "RegisterDifference",
    "RegistryGeneration",
    "RepeatedUplink",
    "ReportedSum",
    "Reverification",
    "RotationWave",
    "StaleSteps",
    "StepVerdict",
    "UncheckedDay",
    "UncomparedSum",
    "Uplink",
    "WaveMeter",
    "WaveState",
]
