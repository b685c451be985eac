"""Enrolment under contention: whatever another does between two statements of a worker, a meter enrols once at most."""

import itertools
import secrets
from collections.abc import Callable, Iterator

import pytest
from django.db.models import QuerySet
from pytest_django import DjangoDbBlocker

from concentrators.ingest import verification
from concentrators.models import Concentrator, Uplink
from keyvault.device_keys import agreement_cut_off, agreement_keys, epochs
from keyvault.device_keys.unwrapping import open_keys
from keyvault.enrolment import authorities
from keyvault.enrolment.certificates import revoke
from keyvault.models import (
    AgreementKey,
    AgreementState,
    AwaitedEnrolment,
    DeviceKey,
    DevicePublicKey,
    Enrolment,
    RevokedCertificate,
)
from tests.concentrators.enrolling import AUTHORITY, KID, OFFICER, Newcomer, pin
from tests.concentrators.fleet import NOW, outcome, post, readings_of
from tests.factories import ConcentratorFactory, MeterFactory
from tests.flows import databases
from tests.stateful.faults import Fault, Faults, Worker

ACTS = ("verify", "revoke", "cut_off", "compromise", "withdraw")
_NUMBERS = itertools.count(1)
_REFUSED_AS = {"revoke": "certificate_revoked", "cut_off": "certificate_invalid", "withdraw": "unknown_device"}


@pytest.fixture(scope="module", autouse=True)
def own_database(django_db_setup: None, django_db_blocker: DjangoDbBlocker) -> Iterator[None]:
    """One database for all of this module: each case has a meter and an agreement key of its own."""
    with django_db_blocker.unblock(), databases.copied():
        pin()
        yield


@pytest.fixture
def db() -> None:
    """Not pytest-django's: these tests commit."""


def judge(worker: Worker, uplink: Uplink) -> None:
    with worker.at_work():
        verification.verify(uplink.pk, worker.own)


class Case:
    """A meter that may enrol, and its enrolment frame, which two concentrators post; what others may do meanwhile."""

    def __init__(self, concentrators: list[Concentrator], workers: list[Worker]) -> None:
        self.name, self.cti = f"hes-{next(_NUMBERS)}", secrets.token_bytes(8)
        self.newcomer = Newcomer(MeterFactory.create(), agreement_keys.init(self.name, OFFICER))
        authorities.allow([self.newcomer.title], OFFICER, NOW)
        frame = self.newcomer.frame(self.newcomer.certificate(audience=self.name, cti=self.cti))
        self.one, self.other = (post(concentrator, [frame]) for concentrator in concentrators)
        self._second = workers[1]
        self.came = False

    def verify(self) -> None:
        judge(self._second, self.other)

    def revoke(self) -> None:
        authorities.revoke(revoke(AUTHORITY, KID, self.cti, int(NOW.timestamp())), OFFICER, NOW)

    def cut_off(self) -> None:
        if AgreementKey.objects.get(name=self.name).state != AgreementState.CUT_OFF:
            agreement_cut_off.cut_off(self.name, 1, OFFICER, NOW)

    def compromise(self) -> None:
        epochs.compromise(list(self.keys().values_list("pk", flat=True)), OFFICER)

    def withdraw(self) -> None:
        AwaitedEnrolment.objects.filter(system_title=self.newcomer.title).delete()

    def keys(self) -> QuerySet[DeviceKey]:
        return DeviceKey.objects.filter(system_title=self.newcomer.title).order_by("epoch")

    def check(self, act: str) -> None:
        """The meter stands as enrolled, with all that belongs to it, or as if nothing had come."""
        said, again = outcome(self.one), outcome(self.other)
        title = self.newcomer.title
        keys = list(self.keys())
        accepted = self.one.accepted + self.other.accepted
        assert accepted == len(readings_of(self.newcomer.device)) == Enrolment.objects.filter(cti=self.cti).count()
        assert DevicePublicKey.objects.filter(system_title=title).count() == accepted
        assert [key.epoch for key in keys] == [0, 1][: 2 * accepted]
        awaited = AwaitedEnrolment.objects.filter(system_title=title).exists()
        assert awaited == (not accepted and act != "withdraw")
        states = {key.state for key in keys}
        if act == "verify":
            assert sorted([*said, *again]) == ["accepted", "duplicate"]
        if accepted and act not in ("cut_off", "compromise"):
            opened = {key.epoch: key.octets for key in open_keys([key.pk for key in keys])}
            assert opened == {epoch: self.newcomer.key(epoch) for epoch in (0, 1)}
            assert states == {"active"}
        if act == "cut_off":
            assert states <= {"compromised"}
        if not accepted:
            assert _REFUSED_AS[act] in said


def beside(case: Case, act: str, statement: int, workers: list[Worker], faults: Faults) -> bool:
    """One worker verifies an enrolment, and at a statement of it something happens; whether it came so far."""
    came: list[int] = []
    doing: Callable[[], None] = getattr(case, act)

    def between() -> None:
        came.append(statement)
        doing()

    faults.run(lambda: judge(workers[0], case.one), Fault(statement, between))
    doing()
    for uplink in (case.one, case.other):
        judge(workers[1], uplink)
        uplink.refresh_from_db()
        assert uplink.verified_at is not None
    case.check(act)
    if act == "revoke":
        assert RevokedCertificate.objects.filter(cti=case.cti).exists()
    return bool(came)


@pytest.mark.parametrize("step", [pytest.param(3, id="a third"), pytest.param(1, id="all", marks=pytest.mark.soak)])
@pytest.mark.parametrize("act", ACTS)
def test_between_any_two_statements(act: str, step: int) -> None:
    """Where a third is tried, of three acts that follow each other each comes at another third."""
    concentrators = ConcentratorFactory.create_batch(2)
    workers, faults = [Worker(), Worker()], Faults()
    with faults.installed():
        statement = ACTS.index(act) % step
        while beside(Case(concentrators, workers), act, statement, workers, faults):
            statement += step
    assert statement >= 20
