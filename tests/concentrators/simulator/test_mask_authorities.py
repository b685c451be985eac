"""The mask authorities of a run are made anew if the attempt before was killed."""

from pathlib import Path

import pytest

from concentrators.simulator import mask_authorities


def test_what_an_attempt_that_was_killed_left_is_replaced(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def run(*words: object) -> str:
        """What the command does with files: ``init`` refuses an authority or a witness that is there already."""
        own = Path(str(words[1]))
        if words[0] == "init":
            witness = Path(str(words[words.index("--witness") + 1]))
            own.mkdir(parents=True)
            witness.parent.mkdir(exist_ok=True)
            witness.touch(exist_ok=False)
            (own / "state.sqlite3").touch()
        elif words[0] == "take" and broken:
            raise mask_authorities.MaskAuthorityFailedError("killed")
        return "  X25519: 11\n  Ed25519: 22\n" if words[0] == "list" else ""

    monkeypatch.setattr(mask_authorities, "_run", run)
    asked = (tmp_path, ("demo", b"\x01" * 32), b"\x02" * 32, [b"certificate"], 0)
    broken = ["broken"]
    with pytest.raises(mask_authorities.MaskAuthorityFailedError):
        mask_authorities.make(*asked)
    broken.clear()
    made = mask_authorities.make(*asked)
    assert [(one.mask_public, one.sign_public) for one in made] == [("11", "22")] * mask_authorities.NUMBER
    assert not (tmp_path / "certificates").exists()
