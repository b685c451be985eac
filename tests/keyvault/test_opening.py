"""Opening a whole uplink and taking its counters: what is refused and why, compare-and-set, row locks."""

import secrets
from collections.abc import Collection
from random import Random
from threading import Thread

import pytest
from django.db import connections, transaction
from pytest_django import Settings

from keyvault.ciphers import KeptCiphers
from keyvault.cose.structures import make_kid
from keyvault.counted_keys import ContendedError
from keyvault.device_keys import epochs, key_rows, provisioning
from keyvault.device_keys.provisioning import NewKey
from keyvault.models import DeviceKey, InvocationCounter, KeyState
from keyvault.opening import Opening, _known_titles, open_frames, save_counters
from keyvault.replay_window import Take
from keyvault.replay_window_store import Care
from keyvault.schemes.dlms.gcm import GcmCipher
from keyvault.schemes.dlms.security import algorithm_of
from tests.builders import seal_frame
from tests.concentrators.fleet import NOW
from tests.concentrators.statements import counting

pytestmark = pytest.mark.django_db

TITLE, OTHER = (bytes.fromhex(f"0024befffe2000{n:02x}") for n in (1, 2))
KEY = secrets.token_bytes(32)


KEPT = KeptCiphers()


@pytest.fixture(autouse=True)
def keys(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(f"{__name__}.KEPT", KeptCiphers())
    provisioning.provision_stored([NewKey(TITLE, 1, KEY), NewKey(TITLE, 0, KEY), NewKey(OTHER, 1, KEY)])


def frame(counter: int, title: bytes = TITLE, epoch: int = 1, payload: bytes = b"payload") -> bytes:
    return seal_frame(title, epoch, KEY, counter, payload)


def opened(*frames: bytes) -> Opening:
    return open_frames([list(enumerate(frames))], Care.LOOK, KEPT)


def counters(title: bytes = TITLE) -> tuple[int, int, str]:
    row = InvocationCounter.objects.get(key__system_title=title, key__epoch=1)
    return row.highest, row.floor, str(row.gaps)


def take_all(opening: Opening) -> list[Take]:
    return [one.key.take(one.invocation_counter) for one in opening.uplinks[0].opened]


def test_plaintexts_come_out_with_their_places() -> None:
    opening = opened(frame(3, payload=b"one"), b"?", frame(2, OTHER, payload=b"two"))
    assert [(one.frame_index, one.kid, one.invocation_counter, one.plaintext) for one in opening.uplinks[0].opened] == [
        (0, make_kid(TITLE, 1), 3, b"one"),
        (2, make_kid(OTHER, 1), 2, b"two"),
    ]
    assert [(refused.frame_index, refused.reason) for refused in opening.uplinks[0].refused] == [(1, "malformed")]


def test_no_frames_at_all() -> None:
    opening = opened()
    assert (opening.uplinks[0].opened, opening.uplinks[0].refused) == ([], [])
    save_counters(opening)


def test_the_transfer_key_opens_no_frame_and_its_device_is_known() -> None:
    assert [refused.reason for refused in opened(frame(1, epoch=0)).uplinks[0].refused] == ["unknown_epoch"]


def test_a_thread_that_asks_which_titles_are_known_holds_up_no_other(monkeypatch: pytest.MonkeyPatch) -> None:
    """Two could wait for each other for ever: one for this query, the other for a row that the first has locked."""
    found: list[str] = []
    asked = "keyvault.opening._known_titles"

    def open_one() -> None:
        found.extend(refused.reason for refused in opened(frame(1, bytes(8))).uplinks[0].refused)
        connections.close_all()

    def ask_beside_another(titles: Collection[bytes]) -> set[bytes]:
        monkeypatch.setattr(asked, _known_titles)
        other = Thread(target=open_one, daemon=True)
        other.start()
        other.join(20)
        return _known_titles(titles)

    monkeypatch.setattr(asked, ask_beside_another)
    assert [refused.reason for refused in opened(frame(1, bytes(8))).uplinks[0].refused] == ["unknown_device"]
    assert found == ["unknown_device"]


def test_a_frame_that_is_too_long_is_malformed(settings: Settings) -> None:
    good = frame(1)
    settings.FRAME_MAX_OCTETS = len(good)
    assert len(opened(good).uplinks[0].opened) == 1
    settings.FRAME_MAX_OCTETS = len(good) - 1
    assert (
        opened(good).uplinks[0].refused[0].detail
        == f"{len(good)} octets are more than the {len(good) - 1} that a frame may have"
    )


def test_opening_alone_takes_no_counter() -> None:
    opening = opened(frame(5), frame(6))
    assert [one.key.look(one.invocation_counter) for one in opening.uplinks[0].opened] == [Take.TAKEN] * 2
    save_counters(opening)
    assert counters() == (-1, 0, "{}")


def test_counters_are_taken_once_across_transactions() -> None:
    opening = opened(frame(0), frame(4), frame(2), frame(2))
    assert take_all(opening) == [Take.TAKEN] * 3 + [Take.SEEN]
    save_counters(opening)
    assert counters() == (4, 0, "{[1, 2), [3, 4)}")
    again = opened(*(frame(n) for n in range(6)))
    assert take_all(again) == [Take.SEEN, Take.TAKEN, Take.SEEN, Take.TAKEN, Take.SEEN, Take.TAKEN]
    save_counters(again)
    assert counters() == (5, 0, "{}")


def test_gaps_beyond_the_limit_raise_the_floor(settings: Settings) -> None:
    settings.COUNTER_GAP_RUNS = 2
    opening = opened(*(frame(n) for n in (1, 3, 5, 7)))
    take_all(opening)
    save_counters(opening)
    assert counters() == (7, 3, "{[4, 5), [6, 7)}")
    assert take_all(opened(frame(0), frame(2), frame(4), frame(1))) == [
        Take.TOO_OLD,
        Take.TOO_OLD,
        Take.TAKEN,
        Take.TOO_OLD,
    ]


def test_who_was_heard_is_kept_for_accepted_frames_only() -> None:
    opening = opened(frame(1), frame(1, OTHER))
    take_all(opening)
    save_counters(opening, {make_kid(TITLE, 1): (NOW, 17)})
    rows = InvocationCounter.objects.filter(key__epoch=1).order_by("key__system_title")
    assert list(rows.values_list("heard_at", "heard_via", "highest")) == [(NOW, 17, 1), (None, None, 1)]


@pytest.mark.parametrize("first", [[0, 1], [5, 3]], ids=["ahead", "gaps"])
def test_a_counter_that_moved_meanwhile_is_contended(first: list[int]) -> None:
    late, winner = (opened(*(frame(n) for n in first), frame(0, OTHER)) for _ in range(2))
    for opening in (winner, late):
        take_all(opening)
    save_counters(winner)
    before = counters(), counters(OTHER)
    with pytest.raises(ContendedError, match="2 of 2"), transaction.atomic():
        save_counters(late)
    assert (counters(), counters(OTHER)) == before


@pytest.mark.parametrize("first", [0, 5], ids=["ahead", "gaps"])
def test_a_key_that_moved_meanwhile_is_contended(first: int) -> None:
    opening = opened(frame(first), frame(0, OTHER))
    take_all(opening)
    key_rows.set_key_state([DeviceKey.objects.get(system_title=TITLE, epoch=1).pk], KeyState.COMPROMISED)
    with pytest.raises(ContendedError, match="1 of 2"), transaction.atomic():
        save_counters(opening)
    assert counters() == (-1, 0, "{}")
    assert [refused.reason for refused in opened(frame(first)).uplinks[0].refused] == ["key_retired"]


def test_under_lock_it_gives_the_same() -> None:
    frames = [(0, frame(1)), (1, frame(2, OTHER)), (2, b"?")]
    with transaction.atomic():
        free, locked = open_frames([frames], Care.LOOK, KEPT), open_frames([frames], Care.LOCK, KEPT)
    assert [(one.frame_index, one.plaintext) for one in free.uplinks[0].opened] == [
        (one.frame_index, one.plaintext) for one in locked.uplinks[0].opened
    ]
    assert free.uplinks[0].refused == locked.uplinks[0].refused


class TestForeseen:
    """Of keys that are kept, only those are read whose highest counter is not the one before their first frame's."""

    @pytest.fixture(autouse=True)
    def kept(self) -> None:
        opening = opened(*(frame(n, title) for n in (0, 1, 4) for title in (TITLE, OTHER)))
        take_all(opening)
        save_counters(opening)

    def saved(self, *frames: bytes) -> list[Take]:
        opening = opened(*frames)
        takes = take_all(opening)
        save_counters(opening)
        return takes

    def test_counters_that_go_on_leave_the_gaps_alone(self) -> None:
        opening = opened(frame(5), frame(6))
        assert all(key.is_foreseen for key in opening.keys.values())
        assert self.saved(frame(5), frame(6)) == [Take.TAKEN] * 2
        assert counters() == (6, 0, "{[2, 4)}")

    def test_beside_another_key_whose_gaps_change(self) -> None:
        assert self.saved(frame(5), frame(2, OTHER), frame(9, OTHER)) == [Take.TAKEN] * 3
        assert counters() == (5, 0, "{[2, 4)}")
        assert counters(OTHER) == (9, 0, "{[3, 4), [5, 9)}")

    @pytest.mark.parametrize(
        ("numbers", "takes"),
        [
            ((2,), [Take.TAKEN]),
            ((4,), [Take.SEEN]),
            ((6,), [Take.TAKEN]),
            ((5, 5), [Take.TAKEN, Take.SEEN]),
            ((6, 5), [Take.TAKEN, Take.TAKEN]),
            ((5, 7), [Take.TAKEN, Take.TAKEN]),
            ((4, 5), [Take.SEEN, Take.TAKEN]),
            ((3, 4, 5), [Take.TAKEN, Take.SEEN, Take.TAKEN]),
        ],
    )
    def test_whatever_else_is_read_in_full(self, numbers: tuple[int, ...], takes: list[Take]) -> None:
        opening = opened(*(frame(n) for n in numbers))
        assert not any(key.is_foreseen for key in opening.keys.values())
        assert self.saved(*(frame(n) for n in numbers)) == takes
        taken = {0, 1, 4, *numbers}
        highest = max(taken)
        assert InvocationCounter.objects.get(key__system_title=TITLE, key__epoch=1).highest == highest
        assert take_all(opened(*(frame(n) for n in range(highest + 1)))) == [
            Take.SEEN if n in taken else Take.TAKEN for n in range(highest + 1)
        ]

    def test_a_forged_frame_that_made_it_look_so_costs_a_second_look(self) -> None:
        forged = frame(5)[:-1] + bytes((frame(5)[-1] ^ 1,))
        opening = opened(forged, frame(6))
        assert take_all(opening) == [Take.TAKEN]
        with pytest.raises(ContendedError), transaction.atomic():
            save_counters(opening)
        assert counters() == (4, 0, "{[2, 4)}")
        with transaction.atomic():
            careful = open_frames([list(enumerate([forged, frame(6)]))], Care.LOCK, KEPT)
            take_all(careful)
            save_counters(careful)
        assert counters() == (6, 0, "{[2, 4), [5, 6)}")

    def test_nothing_is_read_of_what_is_taken_for_true(self) -> None:
        with counting() as statements:
            opening = open_frames([[(0, frame(5)), (1, frame(6)), (2, frame(5, OTHER))]], Care.TRUST, KEPT)
            assert statements.take() == []
        assert take_all(opening) == [Take.TAKEN] * 3
        save_counters(opening)
        assert (counters(), counters(OTHER)) == ((6, 0, "{[2, 4)}"), (5, 0, "{[2, 4)}"))

    def test_what_does_not_count_one_by_one_is_looked_at_all_the_same(self) -> None:
        opening = open_frames([list(enumerate([frame(5), frame(3, OTHER), frame(2, OTHER)]))], Care.TRUST, KEPT)
        assert take_all(opening) == [Take.TAKEN] * 3
        save_counters(opening)
        assert (counters(), counters(OTHER)) == ((5, 0, "{[2, 4)}"), (4, 0, "{}"))

    @pytest.mark.parametrize(
        "frames",
        [
            [frame(4)],  # taken before
            [frame(7)],  # skips
            [frame(5)[:-1] + bytes((frame(5)[-1] ^ 1,))],  # forged
        ],
    )
    def test_what_was_wrongly_taken_for_true_is_not_stored(self, frames: list[bytes]) -> None:
        before = counters()
        opening = open_frames([list(enumerate([*frames, frame(5, OTHER)]))], Care.TRUST, KEPT)
        take_all(opening)
        with pytest.raises(ContendedError), transaction.atomic():
            save_counters(opening)
        assert (counters(), counters(OTHER)) == (before, before)

    @pytest.mark.parametrize("forged", [False, True])
    def test_a_key_that_was_cut_off_is_not_taken_for_true(self, *, forged: bool) -> None:
        key_rows.set_key_state([DeviceKey.objects.get(system_title=TITLE, epoch=1).pk], KeyState.COMPROMISED)
        one = frame(5)[:-1] + bytes((frame(5)[-1] ^ forged,))
        opening = open_frames([[(0, one)]], Care.TRUST, KEPT)
        take_all(opening)
        with pytest.raises(ContendedError), transaction.atomic():
            save_counters(opening)
        again = open_frames([[(0, one)]], Care.LOOK, KEPT)
        assert [refused.reason for refused in again.uplinks[0].refused] == ["key_retired"]
        # The cipher is kept no longer: nothing is taken for true of it.
        assert [refused.reason for refused in open_frames([[(0, one)]], Care.TRUST, KEPT).uplinks[0].refused] == [
            "key_retired"
        ]

    def test_a_key_that_is_gone_is_unknown(self) -> None:
        DeviceKey.objects.filter(system_title=TITLE).delete()
        assert [one.reason for one in opened(frame(5)).uplinks[0].refused] == ["unknown_device"]

    def test_a_key_that_moved_is_read_anew(self) -> None:
        key_rows.set_key_state([DeviceKey.objects.get(system_title=TITLE, epoch=1).pk], KeyState.COMPROMISED)
        assert [one.reason for one in opened(frame(5)).uplinks[0].refused] == ["key_retired"]


# --- three ways to know counters, one answer -----------------------------------------------------------------


def some_frames(random: Random, highest: int) -> list[bytes]:
    """Frames as they may come: most count on, some late, repeated, skipping, forged, or under another epoch."""
    frames: list[bytes] = []
    following = {TITLE: highest + 1, OTHER: highest + 1}
    for _ in range(random.randint(1, 6)):
        title = random.choice([TITLE, OTHER])
        counter = following[title] if random.random() < 0.6 else max(0, highest + random.randint(-6, 6))
        following[title] = counter + 1
        one = frame(counter, title, epoch=1 if random.random() < 0.9 else 2)
        frames.append(one if random.random() < 0.85 else one[:-1] + bytes((one[-1] ^ 1,)))
    return frames


def taken(frames: list[bytes], care: Care, kept: KeptCiphers) -> tuple[object, ...]:
    """What becomes of frames and counters, with more care each time that the one before was wrongly given."""
    for more in list(Care)[list(Care).index(care) :]:
        try:
            with transaction.atomic():
                opening = open_frames([list(enumerate(frames))], more, kept)
                takes = take_all(opening)
                save_counters(opening)
            return takes, opening.uplinks[0].refused, counters(), counters(OTHER)
        except ContendedError:
            continue
    raise AssertionError("contended under locks, and nobody else is there")


@pytest.mark.parametrize("seed", range(12))
def test_counters_are_known_alike_in_all_ways(seed: int, settings: Settings) -> None:
    settings.COUNTER_GAP_RUNS = 3
    random = Random(seed)
    kept = {care: KeptCiphers() for care in Care}
    for _ in range(8):
        frames = some_frames(random, max(counters()[0], counters(OTHER)[0]))
        found = []
        for care in Care:
            with transaction.atomic():
                found.append(taken(frames, care, kept[care]))
                transaction.set_rollback(True)
        assert found[0] == found[1] == found[2]
        taken(frames, Care.LOCK, kept[Care.LOCK])


class TestByTitle:
    """Frames of DLMS name a title alone. The set that opened the last one is tried first, as if they had named it."""

    DLMS = bytes.fromhex("4b464d0000000001")
    OLD, NEW = secrets.token_bytes(32), secrets.token_bytes(32)

    @pytest.fixture(autouse=True)
    def key_set(self) -> None:
        provisioning.provision_stored([self.new_key(1, self.OLD)])

    def new_key(self, epoch: int, octets: bytes) -> NewKey:
        return NewKey(self.DLMS, epoch, octets, algorithm_of(0x30), "dlms")

    def frame(self, counter: int, octets: bytes = OLD) -> bytes:
        return b"\xdb\x08" + self.DLMS + b"\x1e" + GcmCipher(octets, 0x30).seal(self.DLMS, counter, bytes(13))

    def opened(self, *frames: bytes, care: Care = Care.TRUST, statements: int) -> Opening:
        """Open frames, with so many statements; take their counters, and save them."""
        with counting() as counted:
            opening = open_frames([list(enumerate(frames))], care, KEPT)
            assert len(counted.take()) == statements
        take_all(opening)
        save_counters(opening)
        return opening

    @staticmethod
    def epochs(opening: Opening) -> list[int]:
        return [one.kid[9] for one in opening.uplinks[0].opened]

    def test_nothing_is_read_of_a_set_that_goes_on(self) -> None:
        self.opened(self.frame(0), statements=2)  # the keys of the title, and what they wrap
        for counter in (1, 2):
            assert self.epochs(self.opened(self.frame(counter), statements=0)) == [1]
        assert self.epochs(self.opened(self.frame(5), self.frame(4), frame(0), statements=3)) == [1, 1, 1]
        assert take_all(open_frames([[(0, self.frame(2)), (1, self.frame(3))]], Care.LOOK, KEPT)) == [
            Take.SEEN, Take.TAKEN,
        ]  # fmt: skip

    def test_a_set_that_came_meanwhile_is_found_and_frames_stay_in_order(self) -> None:
        self.opened(self.frame(0), statements=2)
        provisioning.provision_pending([self.new_key(2, self.NEW)], {})
        mixed = self.opened(self.frame(0, self.NEW), self.frame(1), self.frame(1, self.NEW), statements=3)
        assert self.epochs(mixed) == [2, 1, 2]
        assert [one.frame_index for one in mixed.uplinks[0].opened] == [0, 1, 2]
        assert self.epochs(self.opened(self.frame(2, self.NEW), self.frame(2), statements=2)) == [2, 1]

    def test_two_sets_in_turn_are_told_apart_by_their_counters(self) -> None:
        """Each change of the set costs a look until both were heard; then none, while their counters are apart."""
        self.opened(self.frame(70_000), statements=2)
        provisioning.provision_pending([self.new_key(2, self.NEW)], {})
        self.opened(self.frame(0, self.NEW), statements=2)
        epochs.activate([DeviceKey.objects.get(system_title=self.DLMS, epoch=2).pk], NOW)
        self.opened(self.frame(70_001), statements=4)  # both rows say other states since
        for counter in (1, 2, 3):
            assert self.epochs(self.opened(self.frame(counter, self.NEW), statements=0)) == [2]
            assert self.epochs(self.opened(self.frame(70_001 + counter), statements=0)) == [1]

    def test_a_forged_frame_costs_its_title_a_look_and_takes_nothing(self) -> None:
        self.opened(self.frame(0), statements=2)
        forged = self.frame(7)[:-1] + bytes((self.frame(7)[-1] ^ 1,))
        opening = self.opened(forged, self.frame(1), statements=3)  # its keys, and those that ended
        assert [one.reason for one in opening.uplinks[0].refused] == ["tag_invalid"]
        assert InvocationCounter.objects.get(key__system_title=self.DLMS).highest == 1

    @pytest.mark.parametrize("care", [Care.TRUST, Care.LOOK])
    def test_a_set_that_was_cut_off_or_made_anew_opens_nothing(self, care: Care) -> None:
        self.opened(self.frame(0), statements=2)
        key_rows.set_key_state([DeviceKey.objects.get(system_title=self.DLMS).pk], KeyState.COMPROMISED)
        if care is Care.TRUST:
            opening = open_frames([[(0, self.frame(1))]], care, KEPT)
            take_all(opening)
            with pytest.raises(ContendedError), transaction.atomic():
                save_counters(opening)
        opening = open_frames([[(0, self.frame(1)), (1, self.frame(2, self.NEW))]], Care.LOOK, KEPT)
        assert [one.reason for one in opening.uplinks[0].refused] == ["key_retired", "unknown_epoch"]
        DeviceKey.objects.filter(system_title=self.DLMS).delete()
        provisioning.provision_stored([self.new_key(1, self.NEW)])
        again = open_frames([[(0, self.frame(1)), (1, self.frame(2, self.NEW))]], Care.LOOK, KEPT)
        assert [one.reason for one in again.uplinks[0].refused] == ["tag_invalid"]
        assert self.epochs(again) == [1]
