"""A mask authority's state: on the disk before the answer, whatever kills it; and what a restore does to it."""

import os
import shutil
import signal
import sqlite3
import subprocess
import sys
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey

from keyvault.masking.masks import MODULUS, Cell, mask, mask_key
from keyvault.masking.messages import MetersRequest, SumRequest, open_meters, open_sum, seal_request
from mask_authority import keys, witness
from mask_authority.keys import AuthorityStateError
from mask_authority.rules import Refusal, RefusedError
from mask_authority.service import Authority
from mask_authority.state import FILE, State

NOW_S, START_S = 1_767_300_000, 1_767_225_600
CELL = Cell("1-0:1.29.0", START_S, 30)
HEAD_END = Ed25519PrivateKey.from_private_bytes(bytes(range(32)))
US = HEAD_END.public_key().public_bytes_raw()
TITLES = tuple(n.to_bytes(8, "big") for n in range(1, 13))
TEN = TITLES[:10]
PAIRS = {title: X25519PrivateKey.from_private_bytes(title * 4) for title in TITLES}
PUBLICS = {title: pair.public_key().public_bytes_raw() for title, pair in PAIRS.items()}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    made = keys.make(tmp_path / "masks", "council", tmp_path / "elsewhere" / "witness")
    state = State.make(tmp_path / "masks", made.witness, START_S - 86_400)
    state.pin_requester(US, "us", NOW_S)
    for title in TITLES:
        assert state.take(title, PUBLICS[title], b"certificate", NOW_S)
    state.close()
    return tmp_path / "masks"


def opened(folder: Path, now_s: int = NOW_S) -> tuple[Authority, State]:
    own = keys.load(folder)
    state = State(folder, own.witness)
    state.check_whole()
    return Authority(own, state, lambda: now_s), state


def asked(folder: Path, titles: tuple[bytes, ...] = TEN, cell: Cell = CELL, at_s: int = NOW_S) -> bytes:
    return seal_request(HEAD_END, SumRequest(US, keys.load(folder).sign_public, at_s, cell, titles))


def refused(authority: Authority, octets: bytes) -> Refusal:
    with pytest.raises(RefusedError) as caught:
        authority.answer(octets)
    return caught.value.refusal


def test_it_answers_the_sum_of_the_masks_that_the_meters_have(folder: Path) -> None:
    authority, _ = opened(folder)
    own = keys.load(folder)
    masks = [
        mask(mask_key(PAIRS[title], own.mask_public, title, PUBLICS[title], own.mask_public), title, CELL)
        for title in TEN
    ]
    answer = authority.answer(asked(folder))
    assert open_sum(answer, own.sign_public, CELL, TEN) == sum(masks) % MODULUS
    assert authority.answer(asked(folder, at_s=NOW_S + 60)) == answer


def test_it_says_which_meters_it_has_taken(folder: Path) -> None:
    authority, _ = opened(folder)
    public = keys.load(folder).sign_public
    octets = seal_request(HEAD_END, MetersRequest(US, public, NOW_S, (TITLES[3], bytes((9,)) * 8)))
    assert open_meters(authority.answer(octets), public) == (TITLES[3],)


def test_every_request_is_logged(folder: Path) -> None:
    authority, state = opened(folder)
    authority.answer(asked(folder))
    refused(authority, asked(folder, TITLES[:11]))
    rows = state.log(9)
    assert [(requester, outcome.partition(":")[0]) for _, requester, _, outcome in rows] == [
        (US, "other_set"),
        (US, "answered"),
    ]


def test_whoever_is_not_pinned_or_did_not_sign_is_refused_and_leaves_nothing(folder: Path) -> None:
    authority, state = opened(folder)
    other = Ed25519PrivateKey.from_private_bytes(bytes((5,)) * 32)
    request = SumRequest(US, keys.load(folder).sign_public, NOW_S, CELL, TEN)
    assert refused(authority, seal_request(other, request)) is Refusal.MALFORMED
    theirs = request._replace(requester=other.public_key().public_bytes_raw())
    assert refused(authority, seal_request(other, theirs)) is Refusal.NOT_PINNED
    assert refused(authority, b"\xd2\x84") is Refusal.MALFORMED
    assert (state.log(9), state.counts["sets"]) == ([], 0)


def test_the_rules_hold_over_a_new_start(folder: Path) -> None:
    authority, state = opened(folder)
    authority.answer(asked(folder))
    state.close()
    again, _ = opened(folder)
    assert refused(again, asked(folder, TITLES[1:11])) is Refusal.OTHER_SET
    assert refused(again, asked(folder, TITLES)) is Refusal.OTHER_SET
    again.answer(asked(folder, TITLES[1:11], CELL._replace(start_s=START_S + 1800)))


KILLED = """
import os, signal, sys
from pathlib import Path
from tests.mask_authority.test_state import asked, opened
from mask_authority import service, witness
def die(*_):
    os.kill(os.getpid(), signal.SIGKILL)
folder = Path(sys.argv[1])
authority, state = opened(folder)
if sys.argv[2] == "before the witness":
    witness.write = die
elif sys.argv[2] == "before the commit":
    state._set = die
else:
    state.note = die
authority.answer(asked(folder))
"""


@pytest.mark.parametrize("when", ["before the commit", "before the witness", "before the answer"])
def test_killed_between_write_and_answer_it_answers_the_same_set_alone(folder: Path, when: str) -> None:
    done = subprocess.run([sys.executable, "-c", KILLED, str(folder), when], env={**os.environ}, check=False)
    assert done.returncode == -signal.SIGKILL
    authority, state = opened(folder)
    is_written = when != "before the commit"
    assert state.counts["sets"] == is_written
    if is_written:
        assert refused(authority, asked(folder, TITLES[:11])) is Refusal.OTHER_SET
    first = authority.answer(asked(folder))
    assert open_sum(first, keys.load(folder).sign_public, CELL, TEN) >= 0
    assert state.counts["sets"] == 1


def test_commits_are_on_the_disk_when_they_return(folder: Path) -> None:
    state = State(folder, keys.load(folder).witness)
    assert state._db.execute("PRAGMA synchronous").fetchone() == (3,)  # EXTRA
    assert state._db.execute("PRAGMA journal_mode").fetchone() == ("delete",)
    assert (folder / FILE).stat().st_mode & 0o777 == 0o600


class TestRestored:
    def forgetful(self, folder: Path) -> None:
        """It answers, and is put back to the state before."""
        shutil.copy2(folder / FILE, folder / "backup")
        authority, state = opened(folder)
        authority.answer(asked(folder))
        state.close()
        shutil.copy2(folder / "backup", folder / FILE)

    def test_it_is_recognised_by_the_witness(self, folder: Path) -> None:
        self.forgetful(folder)
        with pytest.raises(AuthorityStateError, match="saw 1 answer, and the state knows 0: the state was restored"):
            opened(folder)

    @pytest.mark.parametrize("how", ["killed", "the witness's disk was full"])
    def test_it_is_recognised_where_the_first_answer_never_left(
        self, folder: Path, how: str, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        shutil.copy2(folder / FILE, folder / "backup")
        authority, state = opened(folder)
        with monkeypatch.context() as full:
            full.setattr(witness, "write", lambda *_: (_ for _ in ()).throw(AuthorityStateError("no space left")))
            with pytest.raises(AuthorityStateError, match="no space left"):
                authority.answer(asked(folder))
            if how != "killed":
                with pytest.raises(AuthorityStateError, match="no space left"):
                    authority.answer(asked(folder))
        if how == "killed":
            state.close()
            authority, state = opened(folder)
        authority.answer(asked(folder))  # the set that was written down
        state.close()
        shutil.copy2(folder / "backup", folder / FILE)
        with pytest.raises(AuthorityStateError, match="saw 1 answer, and the state knows 0"):
            opened(folder)

    def test_it_is_recognised_while_it_runs(self, folder: Path) -> None:
        shutil.copy2(folder / FILE, folder / "backup")
        authority, state = opened(folder)
        authority.answer(asked(folder))
        (folder / FILE).write_bytes((folder / "backup").read_bytes())
        with pytest.raises(AuthorityStateError, match="saw 1 answer, and the state knows 0"):
            authority.answer(asked(folder, TITLES))
        state.close()

    def test_without_its_witness_or_with_anothers_it_does_not_answer(self, folder: Path) -> None:
        path = keys.load(folder).witness
        seen = witness.read(path)
        assert seen is not None
        witness.write(path, seen._replace(state="other"))
        with pytest.raises(AuthorityStateError, match="is that of another state"):
            opened(folder)
        path.unlink()
        with pytest.raises(AuthorityStateError, match="is not there"):
            opened(folder)

    def test_once_told_it_answers_for_starts_from_now_on_alone(self, folder: Path) -> None:
        self.forgetful(folder)
        state = State(folder, keys.load(folder).witness)
        assert state.begin_anew(NOW_S) == NOW_S
        state.close()
        authority, _ = opened(folder)
        assert refused(authority, asked(folder)) is Refusal.BEFORE_STATE
        assert refused(authority, asked(folder, TITLES)) is Refusal.BEFORE_STATE
        later_s = START_S + 86_400
        later = CELL._replace(start_s=later_s)
        authority, _ = opened(folder, later_s + 1800)
        authority.answer(asked(folder, TITLES, later, later_s + 1800))

    def test_the_witness_tells_of_later_starts_than_the_clock(self, folder: Path) -> None:
        authority, state = opened(folder, NOW_S + 86_400 * 365)
        ahead = CELL._replace(start_s=START_S + 86_400 * 364)
        authority.answer(asked(folder, TEN, ahead, NOW_S + 86_400 * 365))
        assert state.begin_anew(NOW_S) == ahead.start_s + 1


def test_what_is_too_old_is_forgotten_and_refused_from_then_on(folder: Path) -> None:
    authority, state = opened(folder)
    authority.answer(asked(folder))
    assert state.forget_before(START_S) == 0
    assert state.forget_before(START_S + 1) == 1
    assert refused(authority, asked(folder)) is Refusal.BEFORE_STATE


class TestTaking:
    def test_a_mask_key_is_for_good_and_for_one_meter(self, folder: Path) -> None:
        state = State(folder, keys.load(folder).witness)
        assert not state.take(TITLES[0], PUBLICS[TITLES[0]], b"", NOW_S)
        with pytest.raises(AuthorityStateError, match="has another mask key already, and that is for good"):
            state.take(TITLES[0], bytes((9,)) * 32, b"", NOW_S)
        with pytest.raises(AuthorityStateError, match="is that of another meter"):
            state.take(bytes(8), PUBLICS[TITLES[0]], b"", NOW_S)


class TestKeys:
    def test_they_are_not_read_where_others_may(self, folder: Path) -> None:
        (folder / keys.FILE).chmod(0o640)
        with pytest.raises(AuthorityStateError, match="chmod 600"):
            keys.load(folder)

    def test_a_folder_is_made_once(self, folder: Path) -> None:
        with pytest.raises(AuthorityStateError, match="exists already"):
            keys.make(folder, "other", folder / "witness")

    def test_what_is_no_key_file(self, folder: Path) -> None:
        (folder / keys.FILE).write_text("{}")
        with pytest.raises(AuthorityStateError, match="is no key file"):
            keys.load(folder)
        (folder / keys.FILE).unlink()
        with pytest.raises(AuthorityStateError, match="cannot read"):
            keys.load(folder)


def test_two_processes_do_not_serve_one_state(folder: Path) -> None:
    first, second = (State(folder, keys.load(folder).witness) for _ in range(2))
    with first.only_one(), pytest.raises(AuthorityStateError, match="another process serves"), second.only_one():
        pass


def test_a_full_disk_answers_nothing(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    authority, _ = opened(folder)

    def full(*_: object) -> None:
        raise AuthorityStateError("the witness cannot be written: No space left on device")

    monkeypatch.setattr(witness, "write", full)
    with pytest.raises(AuthorityStateError):
        authority.answer(asked(folder))


def test_the_state_is_a_file_of_sqlite(folder: Path) -> None:
    assert sqlite3.connect(folder / FILE).execute("PRAGMA integrity_check").fetchone() == ("ok",)
