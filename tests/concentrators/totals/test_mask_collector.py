"""Masked totals: sets, answers of real authorities, missing ones, late values, wrong answers."""

import re
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from django.db import connection
from django.utils import timezone

from concentrators.commands import queue
from concentrators.commands.queue import CommandRequest, DownlinkError
from concentrators.models import CommandKind, Concentrator, IntervalTotal, MaskedSet, MaskQuestion
from concentrators.totals import mask_client, mask_collector, masked_queries, masked_sets
from concentrators.totals.completeness import incomplete_meters
from concentrators.totals.mask_client import NoAnswerError
from keyvault.audit.chain import Actor
from keyvault.masking import pinned
from keyvault.masking.masks import MODULUS
from keyvault.masking.messages import open_sum, seal_sum
from keyvault.masking.pinned import MaskAuthorityError, MaskAuthorityToPin
from keyvault.models import AuditRecord, MaskAuthority
from mask_authority import keys as authority_keys
from mask_authority.rules import RefusedError
from mask_authority.service import Authority
from mask_authority.state import State
from meters.models import MaskedReading, Meter, Reading
from meters.readings.gaps import gap_report
from tests.concentrators.fleet import INTERVAL, NOW, START, judged, register_id
from tests.concentrators.masked_devices import AUTHORITIES, MASKED_MAKES, Masking
from tests.concentrators.statements import Statements

pytestmark = pytest.mark.django_db
ACTOR = Actor("ann", "test")
AT_ONCE = timedelta(0)


class Site:
    """Authorities in this process, with rules and state on the disk; ``away`` are those that cannot be reached."""

    def __init__(self, folder: Path) -> None:
        self.away: set[str] = set()
        self.lies: dict[str, int] = {}
        self.authorities: dict[str, Authority] = {}
        self.states: dict[str, State] = {}
        self.keys: dict[str, authority_keys.AuthorityKeys] = {}
        for number, masks in enumerate(AUTHORITIES, 1):
            name, url = f"mask-{number}", f"http://mask-{number}"
            own = authority_keys.make(folder / name, name, folder / "elsewhere" / name)
            own.masks = masks  # the one that the meters of these tests were made with
            state = State.make(folder / name, own.witness, int(START.timestamp()) - 86_400)
            state.pin_requester(pinned.requester(NOW).public, "us", 0)
            pinned.pin(MaskAuthorityToPin(name, url, "", own.sign_public), ACTOR, NOW)
            self.authorities[url], self.states[url], self.keys[url] = Authority(own, state), state, own

    def take(self, devices: list[Masking]) -> None:
        for state in self.states.values():
            for device in devices:  # one pair stands for all here, which no authority would take
                if not _taken(state, [device.title]):
                    state.take(device.title, device.title * 4, b"", 0)

    def post(self, url: str, octets: bytes) -> bytes:
        if url in self.away:
            raise NoAnswerError("", "it cannot be reached")
        try:
            answer = self.authorities[url].answer(octets)
        except RefusedError as error:
            raise NoAnswerError(str(error.refusal), str(error)) from None
        if url in self.lies and b"mask sum" in answer:
            question = MaskQuestion.objects.select_related("set").filter(answer=None, authority__url=url).first()
            assert question is not None
            start_s = int(question.set.interval_start.timestamp())
            cell = (INTERVAL, start_s, 30)
            titles = [bytes(question.set.titles)[at : at + 8] for at in range(0, 8 * question.set.meters, 8)]
            told = open_sum(answer, self.keys[url].sign_public, cell, titles)  # type: ignore[arg-type]
            lie = told + self.lies[url]
            return seal_sum(self.keys[url].signing, cell, titles, lie)  # type: ignore[arg-type]
        return answer


@pytest.fixture
def site(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Site]:
    made = Site(tmp_path)
    public = Masking.pair.public_key().public_bytes_raw()
    monkeypatch.setattr(State, "publics", lambda self, titles: dict.fromkeys(_taken(self, titles), public))
    monkeypatch.setattr(mask_client, "post", made.post)
    yield made
    for state in made.states.values():
        state.close()


def _taken(state: State, titles: list[bytes]) -> list[bytes]:
    return [title for title, _ in state._of(titles, "SELECT title, public FROM meters WHERE title IN ({})")]


def fleet(site: Site, concentrator: Concentrator, count: int, *, taken: bool = True) -> list[Masking]:
    makes = list(MASKED_MAKES.values())
    devices: list[Masking] = [makes[number % len(makes)](concentrator) for number in range(count)]
    if taken:
        site.take(devices)
    return devices


def collect() -> mask_collector.Collected:
    MaskQuestion.objects.update(due_at=timezone.now())
    return mask_collector.collect(timezone.now(), AT_ONCE)


def totals() -> list[tuple[int, int | None]]:
    rows = MaskedSet.objects.order_by("interval_start", "pk").values_list("meters", "total")
    return [(meters, None if total is None else int(total)) for meters, total in rows]


def send(concentrator: Concentrator, devices: list[Masking], interval: int = 0) -> list[int]:
    used = [100 + number for number in range(len(devices))]
    frames = [device.frame(interval, wh) for device, wh in zip(devices, used, strict=True)]
    assert judged(concentrator, frames) == {"accepted": len(devices)}
    return used


def test_ten_meters_of_four_envelopes_have_a_total_and_no_reading(site: Site, concentrator: Concentrator) -> None:
    devices = fleet(site, concentrator, 10)
    used = send(concentrator, devices)
    assert collect() == mask_collector.Collected(formed=1, answers=2, closed=1, failed=0)
    assert totals() == [(10, sum(used))]
    assert collect() == mask_collector.Collected(0, 0, 0, 0)
    assert not Reading.objects.exists()
    stored = {value % MODULUS for value in MaskedReading.objects.values_list("value", flat=True)}
    assert not stored & set(used)
    one = MaskedSet.objects.get()
    titles, answers = masked_queries.evidence(one.pk) or ([], [])
    assert titles == sorted(device.title.hex() for device in devices)
    assert [answer.authority for answer in answers] == ["mask-1", "mask-2"]


def test_no_plain_value_is_anywhere_in_the_database(
    site: Site, concentrator: Concentrator, caplog: pytest.LogCaptureFixture
) -> None:
    """Every column of every table, and the log: a value that no other number looks like."""
    devices = fleet(site, concentrator, 10)
    said = 3_141_592
    frames = [device.frame(0, said + number) for number, device in enumerate(devices)]
    assert judged(concentrator, frames) == {"accepted": 10}
    collect()
    assert totals() == [(10, 10 * said + 45)]
    values = [said + number for number in range(10)]
    decimals = "|".join(map(str, values))
    octets = "|".join(value.to_bytes(4, "big").hex() for value in values)
    looked_for = re.compile(rf"(?<![0-9])({decimals})(?![0-9])|{octets}")
    with connection.cursor() as cursor:
        cursor.execute(
            """SELECT relname FROM pg_class WHERE relnamespace = current_schema()::regnamespace AND relkind = 'r'"""
        )
        tables = [name for (name,) in cursor.fetchall()]
        assert len(tables) > 60
        for name in tables:
            cursor.execute(f'SELECT t::text FROM "{name}" AS t')
            rows = "\n".join(row for (row,) in cursor.fetchall())
            assert not looked_for.search(rows), name
    assert not looked_for.search(caplog.text)


def test_nine_wait_for_a_tenth(site: Site, concentrator: Concentrator) -> None:
    devices = fleet(site, concentrator, 10)
    send(concentrator, devices[:9])
    assert (collect().formed, totals()) == (0, [])
    judged(concentrator, [devices[9].frame(0, 5)])
    collect()
    assert totals() == [(10, sum(range(100, 109)) + 5)]


def test_late_values_are_in_no_total_before_ten_are_late(site: Site, concentrator: Concentrator) -> None:
    devices = fleet(site, concentrator, 30)
    first = send(concentrator, devices[:11])
    collect()
    send(concentrator, devices[11:20])
    assert collect().formed == 0
    judged(concentrator, [devices[20].frame(0, 7)])
    collect()
    assert totals() == [(11, sum(first)), (10, sum(range(100, 109)) + 7)]


def test_a_set_waits_until_nothing_more_comes(site: Site, concentrator: Concentrator) -> None:
    send(concentrator, fleet(site, concentrator, 10))
    assert mask_collector.collect(timezone.now(), timedelta(hours=1)).formed == 0
    assert mask_collector.collect(timezone.now() + timedelta(hours=2), timedelta(hours=1)).formed == 1


def test_a_missing_authority_is_asked_again(site: Site, concentrator: Concentrator) -> None:
    used = send(concentrator, fleet(site, concentrator, 10))
    collect_before = mask_collector.collect
    collect_before(timezone.now(), timedelta(days=9))  # learns the meters
    site.away = {"http://mask-2"}
    now = timezone.now()
    assert mask_collector.collect(now, AT_ONCE) == mask_collector.Collected(formed=1, answers=1, closed=0, failed=1)
    (row,) = masked_queries.failing()
    assert (row.name, row.error) == ("mask-2", "it cannot be reached")
    assert mask_collector.collect(now + timedelta(seconds=30), AT_ONCE).failed == 0  # not due yet
    site.away = set()
    assert mask_collector.collect(now + timedelta(minutes=2), AT_ONCE).closed == 1
    assert (totals(), masked_queries.failing()) == ([(10, sum(used))], [])


def test_meters_without_a_certificate_hold_nobody_up(site: Site, concentrator: Concentrator) -> None:
    devices = fleet(site, concentrator, 10)
    stranger = fleet(site, concentrator, 1, taken=False)
    send(concentrator, [*devices, *stranger])
    collect()
    assert totals() == [(10, sum(range(100, 110)))]
    assert MaskedReading.objects.get(set_id=None).meter == stranger[0].meter


@pytest.mark.parametrize(("lie", "total"), [(2**40, None), (3, 1045 - 3)])
def test_a_wild_answer_is_caught_by_range_and_a_small_lie_is_not(
    site: Site, concentrator: Concentrator, lie: int, total: int | None
) -> None:
    send(concentrator, fleet(site, concentrator, 10))
    site.lies = {"http://mask-1": lie}
    collect()
    assert totals() == [(10, total)]
    assert MaskedSet.objects.get().refusal.startswith("out of range" if total is None else "")
    assert masked_queries.refused_since(NOW - timedelta(days=9)).sets == (total is None)


def test_another_set_of_the_same_cells_is_refused_for_good(site: Site, concentrator: Concentrator) -> None:
    """As after a restore of the head-end: what was answered stands at the authorities."""
    devices = fleet(site, concentrator, 11)
    send(concentrator, devices[:10])
    collect()
    MaskedReading.objects.update(set_id=None)
    MaskedSet.objects.all().delete()
    judged(concentrator, [devices[10].frame(0)])
    collect()
    (row,) = MaskedSet.objects.all()
    assert (row.total, "other_set" in row.refusal) == (None, True)


def test_an_authority_that_was_changed_in_the_database_is_not_asked(site: Site, concentrator: Concentrator) -> None:
    send(concentrator, fleet(site, concentrator, 10))
    MaskAuthority.objects.filter(name="mask-1").update(url="http://mask-2")
    assert [one.name for one in pinned.asked()] == ["mask-2"]
    assert collect() == mask_collector.Collected(0, 0, 0, 0)  # of one alone nothing is asked


def test_they_count_as_arrived_and_in_no_sum(site: Site, concentrator: Concentrator) -> None:
    devices = fleet(site, concentrator, 4)
    send(concentrator, devices)
    row = IntervalTotal.objects.get()
    assert (int(row.value_sum), row.meters_counted, row.meters_masked) == (0, 0, 4)
    end = START + timedelta(minutes=30)
    assert incomplete_meters(concentrator.pk, START, end, 9) == []
    Meter.objects.update(commissioned_at=START)
    meter = Meter.objects.get(pk=devices[0].meter.pk)
    register = next(one for one in MaskedReading.objects.select_related("register")).register
    assert gap_report(meter, register, START, end, NOW).missing == 0


def test_a_cell_is_masked_once(site: Site, concentrator: Concentrator) -> None:
    (device,) = fleet(site, concentrator, 1)
    frame = device.frame(0)
    assert judged(concentrator, [frame]) == {"accepted": 1}
    assert judged(concentrator, [frame, device.frame(0)]) == {"duplicate": 1, "accepted": 1}
    assert judged(concentrator, [device.frame(0, 101)]) == {"reading_conflict": 1}
    assert MaskedReading.objects.count() == 1
    assert MaskedReading.objects.get().register_id == register_id(INTERVAL)


def test_commands_that_would_give_values_away_are_not_offered(site: Site, concentrator: Concentrator) -> None:
    (device,) = fleet(site, concentrator, 1)
    for kind, parameters in (
        (CommandKind.READ_NOW, {}),
        (CommandKind.SET_INTERVAL, {"interval_minutes": 15, "from_s": 0}),
    ):
        with pytest.raises(DownlinkError, match="masks what it measures"):
            queue.enqueue([CommandRequest(device.meter, kind, parameters)], "ann", NOW)


def test_a_sweep_costs_the_same_for_any_number_of_meters(
    site: Site, concentrator: Concentrator, statements: Statements
) -> None:
    costs = []
    for interval, count in enumerate((10, 25)):
        send(concentrator, fleet(site, concentrator, count), interval)
        statements.take()
        assert collect().closed == 1
        costs.append(len(statements.take()))
    assert costs[0] == costs[1]


class TestPinning:
    def pin(self, **other: object) -> MaskAuthority:
        fields: dict[str, object] = {
            "name": "one",
            "url": "https://one.example",
            "mask_group": "",
            "public": bytes((7,)) * 32,
        }
        return pinned.pin(MaskAuthorityToPin(**fields | other), ACTOR, NOW)  # type: ignore[arg-type]

    def test_is_audited_and_withdrawn(self) -> None:
        self.pin()
        pinned.withdraw("one", ACTOR, NOW)
        assert pinned.asked() == []
        assert list(AuditRecord.objects.order_by("number").values_list("act", flat=True))[-2:] == [
            "mask_authority.pin",
            "mask_authority.withdraw",
        ]
        with pytest.raises(MaskAuthorityError, match="no mask authority 'one' is pinned"):
            pinned.withdraw("one", ACTOR, NOW)

    @pytest.mark.parametrize(
        "fields",
        [
            {"url": "one.example"},
            {"url": "https://ann:pass@one.example"},
            {"url": "https://one.example/path"},
            {"url": "https://one.example:0"},
            {"url": "file:///etc/passwd"},
            {"public": bytes(31)},
            {"public": bytes(32)},
            {"name": ""},
            {"name": "a\nb"},
            {"mask_group": "x" * 61},
        ],
    )
    def test_what_is_in_no_form_is_refused(self, fields: dict[str, object]) -> None:
        with pytest.raises(MaskAuthorityError):
            self.pin(**fields)
        assert not MaskAuthority.objects.exists()

    def test_a_name_and_a_key_stand_once(self) -> None:
        self.pin()
        with pytest.raises(MaskAuthorityError, match="with this name already"):
            self.pin(public=bytes((8,)) * 32)
        with pytest.raises(MaskAuthorityError, match="with this public key already"):
            self.pin(name="two")

    def test_requests_are_signed_with_one_key(self) -> None:
        assert pinned.requester(NOW).public == pinned.requester(datetime.now(UTC)).public


def test_waiting_values_are_read_once_whatever_the_planner_knows() -> None:
    """Without statistics, as after a first load, PostgreSQL would compare each value with each place in a join."""
    at = {"earliest": NOW, "settled": NOW, "now": NOW}
    few = {"fewest": 10, "most": 100, "modulus": MODULUS, "limit": 1}
    with connection.cursor() as cursor:
        cursor.execute(f"EXPLAIN {masked_sets._FORM}", {"names": ["x"], "numbers": [2], "ids": [1, 2], **at, **few})
        plan = [row[0].strip() for row in cursor.fetchall()]
    assert {row for row in plan if row.startswith("CTE ") and row.count(" ") == 1} == {
        "CTE parts",
        "CTE made",
        "CTE filled",
    }
    assert sum("on concentrators_maskedmeter" in row for row in plan) == 1
