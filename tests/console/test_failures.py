"""The pages of integrity failures: what they show and to whom, acknowledging, verifying again, and their cost."""

import csv
import io
import secrets
from collections.abc import Callable
from datetime import timedelta
from html import unescape
from typing import Any

import pytest
from django.urls import reverse

from ami_headend.signin import roles
from concentrators import tasks
from concentrators.failures import acknowledgement
from concentrators.failures.explanations import explain
from concentrators.failures.kinds import FailureKind
from concentrators.models import Acknowledgement, Concentrator, IntegrityFailure
from keyvault.audit import chain
from keyvault.audit.chain import AuditError
from keyvault.device_keys import provisioning
from keyvault.device_keys.provisioning import NewKey
from keyvault.models import AuditRecord
from meters.models import HouseholdAccess
from tests.builders import senml_payload
from tests.concentrators.dlms_devices import dlms_meter
from tests.concentrators.fleet import ENERGY, NOW, START_S, Device, commission, readings_of, verified
from tests.concentrators.statements import counting
from tests.console.people import person
from tests.dlms_frames import SYNTHETIC, octets
from tests.factories import ConcentratorFactory, IntegrityFailureFactory, MeterFactory

pytestmark = pytest.mark.django_db

LIST, GROUPS = "admin:failures", "admin:failure-groups"
EXPORT = {"export": "csv"}
ALL_FOUND = "admin:failures-acknowledge"


@pytest.fixture
def concentrator() -> Concentrator:
    return ConcentratorFactory.create(name="north")


@pytest.fixture
def refused(concentrator: Concentrator) -> list[IntegrityFailure]:
    """A tampered frame and three that are none."""
    device = commission(1, concentrator)[0]
    frame = device.frame(0)
    tampered = frame[:-1] + bytes((frame[-1] ^ 1,))
    verified(concentrator, [frame, tampered, b"garbage", b"more", frame[:30]])
    return list(IntegrityFailure.objects.order_by("frame_index"))


def at_once(task: Any) -> Callable[..., None]:
    """What stands for the queue: the task runs at once."""
    return lambda args, retry: task(*args)


def page_of(failure: IntegrityFailure) -> str:
    return reverse("admin:failure", args=[failure.pk])


def shown(client: Any, name: str, **asked: Any) -> list[str]:
    """The rows of a list as text."""
    answer = client.get(reverse(name), asked)
    assert answer.status_code == 200
    return [" | ".join(str(cell.content) for cell in row) for row in answer.context["content"].rows]


def test_the_list_shows_the_newest_first_with_its_reasons(refused: list[IntegrityFailure]) -> None:
    rows = shown(person(roles.OPERATOR), LIST)
    assert len(rows) == 4
    [tampered] = [row for row in rows if "invalid tag" in row]
    assert str(refused[0].meter) in tampered
    assert page_of(refused[0]) in tampered
    assert 'type="checkbox"' in rows[0]


@pytest.mark.parametrize(
    ("asked", "count"),
    [
        ({}, 4),
        ({"kind": "malformed"}, 3),
        ({"severity": "critical"}, 1),
        ({"state": "open"}, 4),
        ({"state": "acknowledged"}, 0),
        ({"concentrator": "north"}, 4),
        ({"from": "2020-01-01T00:00"}, 4),
        ({"to": "2020-01-01T00:00"}, 0),
        ({"kind": "tag_invalid", "severity": "info"}, 0),
    ],
)
def test_the_list_is_filtered(refused: list[IntegrityFailure], asked: dict[str, str], count: int) -> None:
    assert len(shown(person(roles.OPERATOR), LIST, **asked)) == count


def test_a_meter_is_found_by_what_people_know_of_it(
    refused: list[IntegrityFailure], concentrator: Concentrator
) -> None:
    stranger = Device(MeterFactory.build(), b"k" * 32)
    verified(concentrator, [stranger.frame(0)])
    client, meter = person(roles.OPERATOR), refused[0].meter
    assert meter is not None
    for known_by, kind in (
        (meter.serial_number, "invalid tag"),
        (bytes(meter.system_title).hex(), "invalid tag"),
        (stranger.title.hex(), "unknown meter"),
    ):
        [row] = shown(client, LIST, meter=known_by)
        assert kind in row
    assert stranger.title.hex() in row
    found = client.get(reverse("admin:search"), {"s": stranger.title.hex(), "extended": "1"}).content.decode()
    assert f"{reverse(LIST)}?meter={stranger.title.hex()}" in found


@pytest.mark.parametrize(
    "asked",
    [
        {"kind": "rubbish"},
        {"meter": "no such meter"},
        {"concentrator": "nowhere"},
        {"uplink": "-1"},
        {"uplink": "9" * 30},
        {"from": "yesterday"},
        {"from": "2026-01-02T00:00", "to": "2026-01-01T00:00"},
        {"after": "rubbish"},
        {"after": "2026-01-01T00:00:00~1"},
        {"after": "2026-01-01T00:00:00+00:00~x"},
        {"after": "2026-01-01T00:00:00+00:00~" + "9" * 40},
    ],
)
@pytest.mark.parametrize("name", [LIST, GROUPS])
def test_nonsense_is_answered_with_what_is_wrong(
    refused: list[IntegrityFailure], name: str, asked: dict[str, str]
) -> None:
    answer = person(roles.OPERATOR).get(reverse(name), asked)
    assert answer.status_code == (400 if any("\0" in value for value in asked.values()) else 200)
    told = ("Correct the filters", "There is no such page", "NUL character")
    assert any(text in answer.content.decode() for text in told)


@pytest.mark.parametrize("field", ["meter", "concentrator"])
@pytest.mark.parametrize("name", [LIST, GROUPS])
def test_a_text_with_a_nul_is_refused(name: str, field: str) -> None:
    answer = person(roles.OPERATOR).get(reverse(name), {field: "a\0b"})
    assert answer.status_code == 400
    assert f"{field}: holds a NUL character" in answer.content.decode()


def test_groups_count_and_lead_to_their_rows(refused: list[IntegrityFailure]) -> None:
    client = person(roles.OPERATOR)
    malformed, tampered = sorted(shown(client, GROUPS), key=lambda row: "invalid tag" in row)
    assert "no known meter" in malformed
    assert ">3</a>" in malformed
    assert str(refused[0].meter) in tampered
    assert len(shown(client, LIST, kind="malformed", concentrator="north")) == 3


def test_pages_go_on(concentrator: Concentrator) -> None:
    uplink = IntegrityFailureFactory.create(concentrator=concentrator).uplink
    for number in range(60):
        received_at = NOW - timedelta(minutes=number // 3)
        IntegrityFailureFactory.create(concentrator=concentrator, uplink=uplink, received_at=received_at)
    client = person(roles.OPERATOR)
    first = client.get(reverse(LIST))
    second = client.get(reverse(LIST) + first.context["next_page"])
    assert len(first.context["content"].rows) == 50
    assert len(second.context["content"].rows) == 11
    assert "next_page" not in second.context
    assert "First page" in second.content.decode()


def test_a_failure_is_explained_octet_by_octet(refused: list[IntegrityFailure]) -> None:
    text = person(roles.OPERATOR).get(page_of(refused[0])).content.decode()
    explanation = explain(FailureKind.TAG_INVALID)
    assert bytes(refused[0].frame).hex() in text
    assert "Key epoch 1" in text
    assert "Authentication tag: 8 octets" in text
    assert explanation.steps[1].replace("'", "&#x27;") in text
    assert str(refused[0].meter) in text
    cut = person(roles.OPERATOR).get(page_of(refused[3])).content.decode()
    assert "Breaks here." in cut
    assert "(octet 30)" in cut


@pytest.mark.parametrize("kind", FailureKind)
def test_every_kind_has_its_page(kind: FailureKind) -> None:
    failure = IntegrityFailureFactory.create(kind=kind, frame=b"")
    answer = person(roles.AUDITOR).get(page_of(failure))
    assert answer.status_code == 200
    assert "(no octets)" in answer.content.decode()


def test_one_is_acknowledged_on_its_page(refused: list[IntegrityFailure]) -> None:
    client = person(roles.OPERATOR)
    answer = client.post(page_of(refused[0]), {"note": "<b>our</b> own test"}, follow=True)
    text = answer.content.decode()
    assert "1 failure acknowledged." in text
    assert "&lt;b&gt;our&lt;/b&gt; own test" in text
    assert 'name="note"' not in text
    row = Acknowledgement.objects.get()
    assert row.by.startswith("operator")
    assert AuditRecord.objects.latest("number").source == "127.0.0.1"


def test_some_or_all_that_are_found_are_acknowledged(refused: list[IntegrityFailure]) -> None:
    client, address = person(roles.OPERATOR), reverse(LIST)
    client.post(address, {"failure": [refused[0].pk, refused[1].pk], "note": "two"})
    assert IntegrityFailure.objects.filter(is_open=False).count() == 2
    client.post(f"{reverse(ALL_FOUND)}?kind=malformed&state=open", {"note": "the rest"})
    assert Acknowledgement.objects.get(note="the rest").failures.count() == 2
    assert len(shown(client, LIST, state="acknowledged")) == 4


@pytest.mark.parametrize(
    ("name", "asked", "given", "said"),
    [
        (LIST, "", {"note": "x"}, "choose failures first"),
        (LIST, "", {"failure": ["x", "-1", "²"], "note": "x"}, "choose failures first"),
        (ALL_FOUND, "", {"note": "  "}, "This field is required"),
        (ALL_FOUND, "", {"note": "x" * 1001}, "at most 1000 characters"),
        (ALL_FOUND, "?kind=rubbish", {"note": "x"}, "correct the filters"),
        (ALL_FOUND, "?state=acknowledged", {"note": "x"}, "acknowledged already"),
    ],
)
def test_what_cannot_be_acknowledged_is_said(
    refused: list[IntegrityFailure], name: str, asked: str, given: dict[str, Any], said: str
) -> None:
    answer = person(roles.OPERATOR).post(reverse(name) + asked, given, follow=True)
    assert said in answer.content.decode()
    assert not IntegrityFailure.objects.filter(is_open=False).exists()


def test_without_the_audit_nothing_is_acknowledged(
    refused: list[IntegrityFailure], monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object) -> None:
        raise AuditError("no key")

    monkeypatch.setattr(chain, "record", refuse)
    answer = person(roles.OPERATOR).post(page_of(refused[0]), {"note": "x"}, follow=True)
    assert "cannot be audited" in answer.content.decode()
    assert IntegrityFailure.objects.filter(is_open=True).count() == 4


def test_more_than_a_batch_goes_on_in_the_background(
    refused: list[IntegrityFailure], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(acknowledgement, "_BATCH", 2)
    monkeypatch.setattr(tasks.acknowledge_failures, "apply_async", at_once(tasks.acknowledge_failures))
    answer = person(roles.OPERATOR).post(reverse(ALL_FOUND), {"note": "storm"}, follow=True)
    assert "the others follow in the background" in answer.content.decode()
    assert not IntegrityFailure.objects.filter(is_open=True).exists()


def test_all_found_are_counted_and_shown_before_they_are_acknowledged(refused: list[IntegrityFailure]) -> None:
    answer = person(roles.OPERATOR).get(reverse(ALL_FOUND), {"kind": "malformed"})
    text = answer.content.decode()
    assert "3 open failures" in text
    assert "<dd>malformed</dd>" in text
    assert "Acknowledge 3" in text
    assert len(answer.context["sample"].rows) == 3
    assert IntegrityFailure.objects.filter(is_open=True).count() == 4
    assert "No filter is set" in person(roles.OPERATOR).get(reverse(ALL_FOUND)).content.decode()


def test_an_acknowledgement_is_taken_back(refused: list[IntegrityFailure], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tasks.reopen_failures, "apply_async", at_once(tasks.reopen_failures))
    client = person(roles.OPERATOR)
    answer = client.post(reverse(ALL_FOUND), {"note": "by mistake"}, follow=True)
    assert "4 failures acknowledged" in answer.content.decode()
    page = reverse("admin:acknowledgement", args=[Acknowledgement.objects.get().pk])
    assert answer.redirect_chain[-1][0] == page
    assert "Take it back" in answer.content.decode()
    assert "Take it back" not in person(roles.AUDITOR).get(page).content.decode()
    taken_back = client.post(page, follow=True).content.decode()
    assert "being opened again" in taken_back
    assert "Taken back by" in taken_back
    assert IntegrityFailure.objects.filter(is_open=True).count() == 4
    assert AuditRecord.objects.latest("number").act == "failures.take_back"


def test_without_a_queue_the_acknowledgement_says_what_is_left(
    refused: list[IntegrityFailure], monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise tasks.reopen_failures.OperationalError("no broker")

    client = person(roles.OPERATOR)
    client.post(reverse(ALL_FOUND), {"note": "by mistake"})
    page = reverse("admin:acknowledgement", args=[Acknowledgement.objects.get().pk])
    monkeypatch.setattr(tasks.reopen_failures, "apply_async", refuse)
    text = client.post(page, follow=True).content.decode()
    assert "the queue does not answer" in text
    assert "4 have yet to be reopened" in text
    monkeypatch.setattr(tasks.reopen_failures, "apply_async", at_once(tasks.reopen_failures))
    client.post(page)
    assert IntegrityFailure.objects.filter(is_open=True).count() == 4


def test_a_frame_that_waited_is_verified_again(concentrator: Concentrator) -> None:
    device = Device(MeterFactory.create(), b"k" * 32)
    verified(concentrator, [device.frame(0)])
    failure = IntegrityFailure.objects.get()
    client = person(roles.OPERATOR)
    assert "Verify again" in client.get(page_of(failure)).content.decode()
    early = client.post(page_of(failure), {"act": "verify-again"}, follow=True)
    assert "Nothing to judge yet" in early.content.decode()
    provisioning.provision_stored([NewKey(device.title, 1, device.key, 10)])
    answer = client.post(page_of(failure), {"act": "verify-again"}, follow=True)
    assert "1 accepted" in answer.content.decode()
    assert answer.redirect_chain[-1][0] == reverse(LIST)
    assert readings_of(device) == {0: 100}
    assert client.get(page_of(failure)).status_code == 404


def test_the_export_has_every_row_that_the_filters_find(refused: list[IntegrityFailure]) -> None:
    answer = person(roles.OPERATOR).get(reverse(LIST), {"kind": "malformed", **EXPORT})
    rows = list(csv.DictReader(io.StringIO(b"".join(answer.streaming_content).decode())))  # type: ignore[attr-defined]
    assert [row["kind"] for row in rows] == ["malformed"] * 3
    assert rows[0]["detail"] == refused[3].detail
    assert rows[0]["received_at"].endswith("Z")
    wrong = person(roles.OPERATOR).get(reverse(LIST), {"kind": "rubbish", **EXPORT}, follow=True)
    assert "Nothing was exported" in wrong.content.decode()


@pytest.mark.parametrize("name", [LIST, GROUPS])
def test_who_may_not_see_failures_sees_none(refused: list[IntegrityFailure], name: str) -> None:
    assert person(rights=("view_meter",)).get(reverse(name)).status_code == 403
    assert person(rights=("view_meter",)).get(page_of(refused[0])).status_code == 403


@pytest.mark.parametrize("role", [roles.AUDITOR, roles.ADMINISTRATOR])
def test_who_may_only_see_changes_nothing(refused: list[IntegrityFailure], role: str) -> None:
    client = person(role)
    assert 'name="note"' not in client.get(reverse(LIST)).content.decode()
    assert client.post(reverse(LIST), {"which": "all", "note": "x"}).status_code == 403
    assert client.post(page_of(refused[0]), {"note": "x"}).status_code == 403
    assert client.post(page_of(refused[0]), {"act": "verify-again"}).status_code == 403
    assert IntegrityFailure.objects.filter(is_open=True).count() == 4


def _many(concentrator: Concentrator, count: int) -> None:
    for number in range(count):
        meter = MeterFactory.create()
        IntegrityFailureFactory.create(
            concentrator=concentrator, meter=meter, received_at=NOW - timedelta(hours=number)
        )


@pytest.mark.parametrize(
    "address",
    [
        lambda: reverse(LIST),
        lambda: reverse(GROUPS),
        lambda: page_of(IntegrityFailure.objects.earliest("pk")),
    ],
)
def test_pages_cost_the_same_however_many_failures(
    concentrator: Concentrator, address: Callable[[], str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("ami_headend.cached_answers.RESTS", 1e9)  # what is kept is kept to the end
    client = person(roles.OPERATOR)
    _many(concentrator, 2)
    client.get(address())
    with counting() as statements:
        client.get(address())
        few = statements.take()
        _many(concentrator, 20)
        statements.take()
        client.get(address())
        assert len(statements) == len(few) <= 10, [*statements]


@pytest.mark.parametrize("role", [roles.OPERATOR, roles.KEY_OFFICER, roles.ADMINISTRATOR, roles.AUDITOR])
def test_a_reason_tells_values_to_those_alone_who_see_readings(role: str, concentrator: Concentrator) -> None:
    """On the failure's page, where the look is recorded; lists, files and the API leave them out."""
    device = commission(1, concentrator)[0]
    refused = [
        device.frame(0, 48_291_563),
        device.seal(senml_payload({ENERGY: -48_291_564}, START_S)),
        device.seal(senml_payload({ENERGY: 48_291_565.5}, START_S)),  # type: ignore[dict-item]  # as a faulty meter
    ]
    verified(concentrator, [device.frame(0, 48_291_562)])
    uplink = verified(concentrator, refused)
    failures = list(IntegrityFailure.objects.filter(uplink=uplink).order_by("frame_index"))
    assert all("4829156" in failure.detail for failure in failures)
    client = person(role)
    export = client.get(reverse(LIST), EXPORT)
    lists = [
        *(client.get(address).content for address in (reverse(LIST), reverse("failures"), reverse("admin:index"))),
        client.get(reverse("admin:meter", args=[device.meter.pk])).content if role != roles.OPERATOR else b"",
        b"".join(export.streaming_content),  # type: ignore[attr-defined]
    ]
    assert b"says ..., the frame ..." in lists[0]
    assert not any(b"4829156" in text for text in lists)
    for failure in failures:
        HouseholdAccess.objects.all().delete()
        is_told = failure.detail in unescape(client.get(page_of(failure)).content.decode())
        assert is_told is HouseholdAccess.objects.filter(meter=device.meter).exists() is (role == roles.OPERATOR)


def test_a_dlms_frame_is_explained_layer_by_layer(concentrator: Concentrator) -> None:
    """In its links; of a frame that names a title alone, too; and where it is longer than a frame of ours may be."""
    client = person(roles.OPERATOR)
    title = bytes.fromhex(SYNTHETIC["db_sc30"]["system_title"])
    device = dlms_meter(title, secrets.token_bytes(32), concentrator)
    waiting = device.frame(b"\x0f\x00\x00\x00\x00\x00\x09\x82\x05\x00" + bytes(1280), 7)
    uplink = verified(
        concentrator, [octets(SYNTHETIC["tr_hdlc_gbt"]), octets(SYNTHETIC["neg_plain_0f"]), waiting, b"\x7e\xa0"]
    )
    told = []
    for failure in IntegrityFailure.objects.filter(uplink=uplink).order_by("frame_index"):
        answer = client.get(page_of(failure))
        assert answer.status_code == 200
        told.append((failure.kind, unescape(answer.content.decode()).lower()))
    assert [kind for kind, _ in told] == ["tag_invalid", "algorithm_mismatch", "unknown_profile", "malformed"]
    assert "block 3 of general-block-transfer, the last" in told[0][1]
    assert "a data notification in clear" in told[1][1]
    assert "invocation counter 7" in told[2][1]
    assert "push profile" in told[2][1]
    assert f"claims to be</dt><dd><code>{title.hex()}</code>, key epoch 1" in told[0][1]
