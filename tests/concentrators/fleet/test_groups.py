"""Groups and tags: who is in them by which way, as meters move; acts, their audit, and tables of members."""

from collections.abc import Callable
from datetime import timedelta
from io import StringIO
from pathlib import Path

import pytest
from django.core.management import CommandError, call_command
from django.db import connection
from django.utils import timezone

from concentrators.fleet import groups as acts
from concentrators.fleet.assignments import assign, end
from concentrators.fleet.group_import import import_members
from concentrators.fleet.groups import Counts, Members
from concentrators.fleet.selection import Selection
from keyvault.audit.chain import Actor
from keyvault.models import AuditRecord
from meters.group_models import FleetGroup, MeterInGroup
from meters.models import Meter, Place
from meters.registry import groups, lifecycle
from meters.registry.groups import GroupError, parse
from tests.concentrators.statements import counting
from tests.factories import ConcentratorFactory, MeterFactory

pytestmark = pytest.mark.django_db
ACTOR = Actor("ann", "test")
NOW = timezone.now()


def made(name: str = "district:North") -> FleetGroup:
    return acts.make(parse(name), ACTOR)


def members(*chosen: FleetGroup) -> set[str]:
    rows = Meter.objects.filter(groups.of_meters([group.pk for group in chosen], "pk"))
    sql, params = groups.meter_condition([group.pk for group in chosen], "m.id")
    with connection.cursor() as cursor:
        cursor.execute(f"SELECT serial_number FROM meters_meter m WHERE {sql}", params)
        assert {name for (name,) in cursor.fetchall()} == {meter.serial_number for meter in rows}
    return {meter.serial_number for meter in rows}


@pytest.mark.parametrize(
    ("text", "kind", "name"),
    [(" district : North ", "district", "North"), ("leaky", "tag", "leaky"), ("Tag:leaky", "tag", "leaky")],
)
def test_names_are_parsed(text: str, kind: str, name: str) -> None:
    assert parse(text) == (kind, name)


@pytest.mark.parametrize("text", ["", ":", "district:", ":North", "a|b", "tag:a:b", "x" * 41 + ":y", "a:\x07b"])
def test_names_that_cannot_be_are_refused(text: str) -> None:
    with pytest.raises(GroupError):
        parse(text)


def test_a_group_is_unique_as_people_see_it() -> None:
    group = made("District:North")
    with pytest.raises(GroupError, match="already"):
        made("district: NORTH")
    assert groups.find(["DISTRICT:north", "district:North"]) == [group]
    with pytest.raises(GroupError, match="no group feeder:7"):
        groups.find(["feeder:7"])


def test_a_meter_is_in_a_group_itself_and_by_its_place_and_concentrator() -> None:
    group, meter, place = made(), MeterFactory.create(), Place.objects.create(name="House 1")
    lifecycle.install(meter, place, NOW - timedelta(days=2))
    one, other = ConcentratorFactory.create(), ConcentratorFactory.create()
    assign([(meter.pk, one.pk)], NOW - timedelta(days=2))
    assert members(group) == set()

    assert acts.put(group, Members([meter.pk], [place.pk], [one.pk]), ACTOR) == Counts(1, 1, 1)
    assert acts.put(group, Members([meter.pk], [place.pk], [one.pk]), ACTOR) == Counts(0, 0, 0)
    assert members(group) == {meter.serial_number}
    assert sorted(MeterInGroup.objects.values_list("via", flat=True)) == [0, 1, 2]
    assert acts.size(group) == acts.sizes(NOW)[group.pk] == Counts(1, 1, 1)

    assert acts.take(group, Members([meter.pk]), ACTOR) == Counts(1, 0, 0)
    assign([(meter.pk, other.pk)], NOW - timedelta(days=1))
    assert list(MeterInGroup.objects.values_list("via", flat=True)) == [1]
    new = MeterFactory.create()
    lifecycle.exchange(place, meter, new, NOW)
    assert members(group) == {new.serial_number}
    acts.put(group, Members(concentrators=[other.pk]), ACTOR)
    assert members(group) == {new.serial_number, meter.serial_number}
    end([meter.pk], NOW)
    acts.take(group, Members(places=[place.pk]), ACTOR)
    assert members(group) == set()


def test_removing_a_place_or_a_group_leaves_no_members() -> None:
    group, other, meter = made(), made("leaky"), MeterFactory.create()
    place = Place.objects.create(name="House 1")
    concentrator = ConcentratorFactory.create()
    assign([(meter.pk, concentrator.pk)], NOW)
    for one in (group, other):
        acts.put(one, Members([meter.pk], [place.pk], [concentrator.pk]), ACTOR)
    place.delete()
    assert acts.size(group) == Counts(1, 0, 1)
    acts.remove(group, ACTOR)
    assert members(other) == {meter.serial_number}
    assert set(MeterInGroup.objects.values_list("group", flat=True)) == {other.pk}
    assert list(FleetGroup.objects.all()) == [other]


def test_acts_are_audited_and_trial_runs_change_nothing() -> None:
    group, meter = made(), MeterFactory.create()
    acts.put(group, Members([meter.pk]), ACTOR, dry_run=True)
    assert members(group) == set()
    acts.put(group, Members([meter.pk]), ACTOR)
    acts.change(group, ACTOR, parse("district:Nord"), "all of it")
    chosen = groups.meter_condition([group.pk], "id")
    tag = made("seen")
    assert acts.put_meters(tag, (f"SELECT id FROM meters_meter WHERE {chosen[0]}", chosen[1]), ACTOR) == 1
    acts.remove(group, ACTOR)
    assert list(AuditRecord.objects.order_by("number").values_list("act", flat=True)) == [
        *("group.make", "group.put", "group.change", "group.make", "group.put", "group.remove")
    ]
    assert members(tag) == {meter.serial_number}


def test_a_group_that_was_removed_meanwhile_takes_no_act_and_stays_removed() -> None:
    removed, meter = made(), MeterFactory.create()
    group = FleetGroup.objects.get()
    acts.remove(removed, ACTOR)
    late: list[Callable[[], object]] = [
        lambda: acts.change(group, ACTOR, note="all of it"),
        lambda: acts.put(group, Members([meter.pk]), ACTOR),
        lambda: acts.take(group, Members([meter.pk]), ACTOR),
        lambda: acts.put_meters(group, ("SELECT id FROM meters_meter", []), ACTOR),
        lambda: acts.remove(group, ACTOR),
    ]
    for act in late:
        with pytest.raises(GroupError, match="district:North was removed meanwhile"):
            act()
    assert not FleetGroup.objects.exists()


def test_a_change_keeps_what_another_one_changed_meanwhile() -> None:
    group = made()
    other = FleetGroup.objects.get()
    acts.change(other, ACTOR, note="all of it")
    acts.change(group, ACTOR, parse("district:Nord"))
    assert FleetGroup.objects.values_list("name", "note").get() == ("Nord", "all of it")


def test_a_selection_of_meters_may_name_groups() -> None:
    group, tag = made(), made("leaky")
    one, other, third = (MeterFactory.create() for _ in range(3))
    acts.put(group, Members([one.pk, third.pk]), ACTOR)
    acts.put(tag, Members([other.pk]), ACTOR)
    assert not Selection(groups=[group]).says_nothing
    assert list(Selection(groups=[group]).meters(NOW)) == [one, third]
    assert list(Selection(groups=[group, tag]).meters(NOW)) == [one, other, third]


@pytest.fixture
def table(tmp_path: Path) -> Callable[..., Path]:
    def table(*lines: str) -> Path:
        path = tmp_path / "members.csv"
        path.write_text("\n".join(["group,meter,place,concentrator", *lines]))
        return path

    return table


def test_a_table_puts_members_in_and_takes_them_out(table: Callable[..., Path]) -> None:
    one, other = MeterFactory.create(), MeterFactory.create()
    place, concentrator = Place.objects.create(name="House 1"), ConcentratorFactory.create(name="DCU-1")
    lines = [
        f"district:North,{one.serial_number},,",
        f"leaky,{bytes(other.system_title).hex()},,",
        "district:North,,house 1,",
        "district:North,,,dcu-1",
    ]
    path = table(*lines)
    tried = import_members(path, ACTOR, dry_run=True)
    assert (tried.changed, tried.new_groups, FleetGroup.objects.count()) == (
        Counts(2, 1, 1),
        ["district:North", "leaky"],
        0,
    )
    out = StringIO()
    call_command("group", "import", str(path), stdout=out)
    assert "Put in: 2 meters, 1 place, 1 concentrator, of 4 lines. 2 groups are new" in out.getvalue()
    north, leaky = groups.find(["district:North", "leaky"])
    assert (members(north), members(leaky)) == ({one.serial_number}, {other.serial_number})
    assert list(acts.of_concentrator(concentrator.pk)) == list(groups.of_place(place.pk)) == [north]
    assert import_members(path, ACTOR).changed == Counts(0, 0, 0)
    assert import_members(table(*lines[:1]), ACTOR, take=True).changed == Counts(1, 0, 0)
    assert members(north) == set()


def test_bad_lines_change_nothing(table: Callable[..., Path], capsys: pytest.CaptureFixture[str]) -> None:
    meter = MeterFactory.create()
    path = table(
        f"district:North,{meter.serial_number},,", "district:North,nobody,,", "district:,,,x", "a,x,y,", "b,,,nowhere"
    )
    with pytest.raises(CommandError, match="4 bad lines"):
        call_command("group", "import", str(path))
    said = capsys.readouterr().err
    assert "line 3: there is no meter nobody" in said
    assert "line 4: group 'district:' is not kind:name" in said
    assert "line 5: one of meter, place, concentrator" in said
    assert "line 6: there is no concentrator nowhere" in said
    assert not FleetGroup.objects.exists()
    assert [one.reason for one in import_members(table("c,meter-x,,"), ACTOR, take=True).bad] == [
        "there is no group c",
        "there is no meter meter-x",
    ]


def test_the_number_of_statements_does_not_depend_on_the_members(table: Callable[..., Path]) -> None:
    meters = [MeterFactory.create() for _ in range(40)]

    def cost(number: int, name: str) -> int:
        with counting() as statements:
            import_members(table(*(f"{name},{meter.serial_number},," for meter in meters[:number])), ACTOR)
        return len(statements)

    cost(1, "warm")
    assert cost(2, "two") == cost(40, "forty")


def test_the_command_makes_lists_and_removes() -> None:
    def run(*words: str) -> str:
        out = StringIO()
        call_command("group", *words, stdout=out)
        return out.getvalue()

    assert "There are no groups" in run("list")
    assert run("add", "district:North", "--note", "all of it") == "Made group district:North.\n"
    meter = MeterFactory.create(serial_number="SN-1")
    assert "Would put into district:North: 1 meter" in run("put", "district:North", "--meter", "SN-1", "--dry-run")
    assert "Put into district:North: 1 meter" in run("put", "district:North", "--meter", "SN-1")
    assert "district:North: 1 meter, 0 places, 0 concentrators  all of it" in run("list", "--kind", "district")
    assert run("rename", "district:North", "--to", "district:Nord") == "district:North is now district:Nord.\n"
    assert "Would remove district:Nord" in run("remove", "district:Nord", "--dry-run")
    assert members(*groups.find(["district:Nord"])) == {meter.serial_number}
    assert "Removed district:Nord, which had 1 meter" in run("remove", "district:Nord")
    for words in (["put", "x", "--meter", "SN-1"], ["add"], ["list", "x"], ["put", "x"]):
        with pytest.raises(CommandError):
            run(*words)


def test_the_import_of_meters_names_groups(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    def run(*lines: str, options: tuple[str, ...] = ()) -> str:
        path, out = tmp_path / "meters.csv", StringIO()
        path.write_text("\n".join(["system_title,serial_number,place,groups,tags,place_groups", *lines]))
        call_command("import_meters", str(path), "--no-keys", *options, stdout=out)
        return out.getvalue()

    first = "0024befffe000001,S1,House 1,district:North|feeder:7,leaky,route:5"
    assert "4 times a meter or a place came into a group" in run(first, "0024befffe000002,S2,,,,")
    north, leaky, route = groups.find(["district:North", "leaky", "route:5"])
    assert members(north) == members(leaky) == members(route) == {"S1"}
    assert "2 unchanged" in run(first, "0024befffe000002,S2,,,,")
    with pytest.raises(CommandError):
        run("0024befffe000002,S2,,district:North,,")
    assert "is not in district:North: give --update" in capsys.readouterr().err
    assert "1 changed" in run("0024befffe000002,S2,,district:North,,", options=("--update",))
    assert members(north) == {"S1", "S2"}
    with pytest.raises(CommandError):
        run("0024befffe000003,S3,,,,route:5", "0024befffe000004,S4,,district:,,")
    said = capsys.readouterr().err
    assert "place_groups is of a place, and place is empty" in said
    assert "is not kind:name" in said
