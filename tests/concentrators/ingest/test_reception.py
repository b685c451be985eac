"""Reception: what is an uplink, what is not, and what it costs to find out."""

import gzip
import hashlib
import itertools
import tracemalloc
import zlib
from collections.abc import Callable
from datetime import timedelta
from typing import Any

import pytest
import zstandard
from pytest_django import Settings

from concentrators import retention, tasks
from concentrators.ingest import reception, uplink_state
from concentrators.ingest.reception import UnknownEncodingError, UplinkError, UplinkTooLargeError
from concentrators.models import Concentrator, Uplink
from keyvault.cose.structures import encode_sequence
from tests.concentrators.fleet import NOW, commission, judged

BODY = encode_sequence([b"frame"] * 400)
zstd: Callable[[bytes], bytes] = zstandard.ZstdCompressor().compress


@pytest.mark.parametrize(
    ("encoding", "body"),
    [
        ("", BODY),
        ("identity", BODY),
        ("gzip", gzip.compress(BODY, mtime=0)),
        (" GZIP ", gzip.compress(BODY, mtime=0)),
        ("x-gzip", gzip.compress(BODY, mtime=0)),
        ("zstd", zstd(BODY)),
        ("zstd", zstandard.ZstdCompressor(write_content_size=False).compress(BODY)),
    ],
)
def test_a_body_without_its_encoding(encoding: str, body: bytes) -> None:
    assert reception.decode(body, encoding) == BODY


@pytest.mark.parametrize("encoding", ["br", "deflate", "gzip, gzip", "x"])
def test_an_encoding_that_is_not_known(encoding: str) -> None:
    with pytest.raises(UnknownEncodingError, match="gzip, zstd, identity"):
        reception.decode(BODY, encoding)


@pytest.mark.parametrize(("encoding", "compress"), [("gzip", gzip.compress), ("zstd", zstd)])
class TestDamagedEncoding:
    def test_every_truncation(self, encoding: str, compress: Callable[[bytes], bytes]) -> None:
        body = compress(BODY)
        for length in range(len(body)):
            with pytest.raises(UplinkError):
                reception.decode(body[:length], encoding)

    @pytest.mark.parametrize("octets", [b"\x00", b"more" * 1000])
    def test_octets_that_follow(self, encoding: str, compress: Callable[[bytes], bytes], octets: bytes) -> None:
        for inner in (BODY, bytes(range(256)) * 3, *(hashlib.shake_128(b"").digest(n) for n in range(990, 1030))):
            with pytest.raises(UplinkError, match="octets follow"):
                reception.decode(compress(inner) + octets, encoding)

    def test_several_streams_are_one_body(self, encoding: str, compress: Callable[[bytes], bytes]) -> None:
        for cuts in ((len(BODY) // 2,), (1, 2, 3, 4), range(40, len(BODY), 40), (0, 0, len(BODY))):
            ends = [0, *cuts, len(BODY)]
            parts = [compress(BODY[start:end]) for start, end in itertools.pairwise(ends)]
            assert reception.decode(b"".join(parts), encoding) == BODY
            for broken in (b"".join(parts)[:-1], b"".join(parts) + parts[0][:3]):
                with pytest.raises(UplinkError, match="ends too early"):
                    reception.decode(broken, encoding)

    def test_several_streams_are_bounded_together(
        self, encoding: str, compress: Callable[[bytes], bytes], settings: Settings
    ) -> None:
        settings.UPLINK_MAX_OCTETS = 5_000
        with pytest.raises(UplinkTooLargeError, match="post it in parts"):
            reception.decode(compress(bytes(2_000)) * 3, encoding)
        settings.UPLINK_MAX_FRAMES = 100
        assert reception.decode(compress(b"") * 99 + compress(BODY[:100]), encoding) == BODY[:100]
        with pytest.raises(UplinkTooLargeError, match="in more than 100 parts"):
            reception.decode(compress(b"") * 100 + compress(BODY[:100]), encoding)

    def test_another_encoding_or_none(self, encoding: str, compress: Callable[[bytes], bytes]) -> None:
        for body in (BODY, zlib.compress(BODY), b"\x00"):
            with pytest.raises(UplinkError):
                reception.decode(body, encoding)

    def test_as_large_as_may_be(self, encoding: str, compress: Callable[[bytes], bytes], settings: Settings) -> None:
        settings.UPLINK_MAX_OCTETS = len(BODY)
        assert reception.decode(compress(BODY), encoding) == BODY
        with pytest.raises(UplinkTooLargeError, match="post it in parts"):
            reception.decode(compress(BODY + b"@"), encoding)

    def test_a_bomb_is_refused_with_little_memory(
        self, encoding: str, compress: Callable[[bytes], bytes], settings: Settings
    ) -> None:
        bomb = compress(bytes(400_000_000))
        assert len(bomb) < settings.UPLINK_MAX_OCTETS
        tracemalloc.start()
        try:
            with pytest.raises(UplinkTooLargeError):
                reception.decode(bomb, encoding)
            assert tracemalloc.get_traced_memory()[1] < 80_000_000
        finally:
            tracemalloc.stop()


def test_a_zstd_window_of_a_gigabyte_is_refused() -> None:
    parameters = zstandard.ZstdCompressionParameters(window_log=27, enable_ldm=True)
    compressor = zstandard.ZstdCompressor(compression_params=parameters).compressobj()
    body = compressor.compress(BODY) + compressor.flush()
    with pytest.raises(UplinkError):
        reception.decode(body, "zstd")


@pytest.mark.django_db
class TestReceive:
    def test_the_octets_are_committed_and_enqueued(self, concentrator: Concentrator, enqueued: list[int]) -> None:
        receipt = reception.receive(concentrator.pk, BODY, NOW, tasks.enqueue)
        uplink = Uplink.objects.get(pk=receipt.uplink_id)
        assert receipt == (uplink.pk, hashlib.sha256(BODY).digest(), 400, False)
        assert (bytes(uplink.body or b""), bytes(uplink.sha256)) == (BODY, receipt.sha256)
        assert (uplink.frames, uplink.octets, uplink.received_at) == (400, len(BODY), NOW)
        assert (uplink.verified_at, uplink.due_at) == (None, NOW + timedelta(seconds=60))
        assert enqueued == [uplink.pk]

    def test_the_same_body_gets_the_same_receipt_while_its_octets_are_kept(
        self, concentrator: Concentrator, other_concentrator: Concentrator, enqueued: list[int]
    ) -> None:
        first = reception.receive(concentrator.pk, BODY, NOW, tasks.enqueue)
        repeated = first._replace(is_again=True)
        assert reception.receive(concentrator.pk, BODY, NOW + timedelta(days=1), tasks.enqueue) == repeated
        assert enqueued == [first.uplink_id]
        assert reception.receive(other_concentrator.pk, BODY, NOW, tasks.enqueue).uplink_id != first.uplink_id

        Uplink.objects.filter(pk=first.uplink_id).update(verified_at=NOW, rejected=400)
        assert reception.receive(concentrator.pk, BODY, NOW + timedelta(days=1), tasks.enqueue) == repeated
        assert retention.delete_bodies(NOW + timedelta(days=31)) == 1
        again = reception.receive(concentrator.pk, BODY, NOW + timedelta(days=31), tasks.enqueue)
        assert again.uplink_id != first.uplink_id

    def test_a_purge_between_the_look_for_the_same_body_and_its_receipt(
        self, concentrator: Concentrator, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        first = reception.receive(concentrator.pk, BODY, NOW, tasks.enqueue)
        Uplink.objects.filter(pk=first.uplink_id).update(verified_at=NOW, rejected=400)
        insert = uplink_state.add

        def insert_then_purge(*args: Any) -> int | None:
            uplink_id = insert(*args)
            retention.delete_bodies(NOW + timedelta(days=31))
            return uplink_id

        monkeypatch.setattr(uplink_state, "add", insert_then_purge)
        again = reception.receive(concentrator.pk, BODY, NOW + timedelta(days=31), tasks.enqueue)
        assert again.uplink_id > first.uplink_id
        assert Uplink.objects.filter(concentrator=concentrator).count() == 2

    def test_a_body_posted_again_after_its_purge_is_judged_again(self, concentrator: Concentrator) -> None:
        frames = [commission(1, concentrator)[0].frame(0)]
        assert judged(concentrator, frames) == {"accepted": 1}
        retention.delete_bodies(NOW + timedelta(days=31))
        assert judged(concentrator, frames, NOW + timedelta(days=31)) == {"replayed": 1}

    @pytest.mark.parametrize(
        ("body", "message"),
        [
            (b"", "holds no frame"),
            (b"\x00", "octet 0"),
            (BODY + b"\x81\x40", f"octet {len(BODY)}"),
            (BODY + b"\x5f\x41\x00\xff", "definite length"),
            (BODY[:-1], "announces 5 octets, but 4 follow"),
            (b"\x5b" + b"\xff" * 8, "announces"),
            (b"\x59\x01", "ends inside"),
            (b'{"frames": []}', "0x7b"),
        ],
    )
    def test_nothing_is_stored_of_what_is_no_sequence(
        self, concentrator: Concentrator, enqueued: list[int], body: bytes, message: str
    ) -> None:
        with pytest.raises(UplinkError, match=message):
            reception.receive(concentrator.pk, body, NOW, tasks.enqueue)
        assert not Uplink.objects.exists()
        assert enqueued == []

    def test_too_many_frames(self, concentrator: Concentrator, settings: Settings) -> None:
        settings.UPLINK_MAX_FRAMES = 399
        with pytest.raises(UplinkTooLargeError, match="400 frames are more than 399"):
            reception.receive(concentrator.pk, BODY, NOW, tasks.enqueue)
        assert not Uplink.objects.exists()
