"""The HTTP door of concentrators: receipts, refusals as problem details, and nothing told or stored beyond them."""

import gzip
import hashlib
import socket
import time
from datetime import timedelta
from typing import Any

import pytest
import zstandard
from django.contrib.auth.models import User
from django.db import OperationalError
from django.test import Client
from django.utils import timezone
from pytest_django import Settings
from redis.exceptions import ConnectionError as RedisConnectionError

from ami_headend.celery import app
from ami_headend.core import bearer, rate_limits
from concentrators import tasks
from concentrators.fleet import tokens
from concentrators.ingest import uplink_state, verification
from concentrators.models import Concentrator, ConcentratorToken, Uplink
from keyvault.cose.structures import encode_sequence
from tests.concentrators.fleet import NOW, commission
from tests.damage import damaged

pytestmark = pytest.mark.django_db

URL = "/api/v1/uplinks"
BODY = encode_sequence([b"frame one", b"frame two"])
CBOR_SEQUENCE = "application/cbor-seq"


@pytest.fixture
def token(concentrator: Concentrator) -> str:
    return tokens.issue(concentrator, "test")


def post_body(
    token: str, body: bytes = BODY, content_type: str = CBOR_SEQUENCE, headers: dict[str, str] | None = None
) -> Any:
    authorized = {"Authorization": f"Bearer {token}", **(headers or {})}
    return Client().post(URL, body, content_type=content_type, headers=authorized)


def get_status(token: str, uplink_id: int | str) -> Any:
    return Client().get(f"{URL}/{uplink_id}", headers={"Authorization": f"Bearer {token}"})


def assert_problem(response: Any, status: int, detail: str = "") -> None:
    """Problem details (RFC 9457), and nothing was stored."""
    assert response.status_code == status, response.content
    assert response["Content-Type"] == "application/problem+json"
    problem = response.json()
    assert (problem["status"], problem["instance"]) == (status, response.wsgi_request.path)
    assert detail in problem["detail"]
    assert not Uplink.objects.exists()


class TestReceipt:
    def test_202_names_uplink_digest_and_frames(self, token: str, concentrator: Concentrator) -> None:
        response = post_body(token)
        uplink = Uplink.objects.get()
        assert response.status_code == 202
        assert response.json() == {"uplink": uplink.pk, "sha256": hashlib.sha256(BODY).hexdigest(), "frames": 2}
        assert uplink.concentrator == concentrator
        assert post_body(token).json() == response.json()
        assert Uplink.objects.count() == 1

    @pytest.mark.parametrize(
        ("encoding", "body"),
        [("gzip", gzip.compress(BODY, mtime=0)), ("zstd", zstandard.ZstdCompressor().compress(BODY))],
    )
    def test_the_digest_is_of_the_decoded_body(self, token: str, encoding: str, body: bytes) -> None:
        plain = post_body(token).json()
        assert post_body(token, body, headers={"Content-Encoding": encoding}).json() == plain

    def test_parameters_of_the_content_type(self, token: str) -> None:
        assert post_body(token, content_type=f"{CBOR_SEQUENCE}; charset=utf-8").status_code == 202


class TestRefusals:
    @pytest.mark.parametrize("body", [b"", b"\x00", BODY + b"\x5f", BODY[:-1]])
    def test_400_for_what_is_no_sequence(self, token: str, body: bytes) -> None:
        assert_problem(post_body(token, body), 400)

    @pytest.mark.parametrize("encoding", ["gzip", "zstd"])
    @pytest.mark.parametrize("body", [b"", BODY, gzip.compress(BODY, mtime=0)[:-1]])
    def test_400_for_a_damaged_encoding(self, token: str, encoding: str, body: bytes) -> None:
        assert_problem(post_body(token, body, headers={"Content-Encoding": encoding}), 400)

    def test_413_for_too_many_octets_before_and_after_decoding(self, token: str, settings: Settings) -> None:
        settings.UPLINK_MAX_OCTETS = 1000
        assert_problem(post_body(token, encode_sequence([bytes(1000)])), 413, "post it in parts")
        bomb = gzip.compress(bytes(500_000))
        assert_problem(post_body(token, bomb, headers={"Content-Encoding": "gzip"}), 413, "post it in parts")

    def test_413_for_too_many_frames(self, token: str, settings: Settings) -> None:
        settings.UPLINK_MAX_FRAMES = 1
        assert_problem(post_body(token), 413, "2 frames")

    @pytest.mark.parametrize("content_type", ["application/json", "application/cbor", "application/octet-stream", ""])
    def test_415_for_another_content_type(self, token: str, content_type: str) -> None:
        assert_problem(post_body(token, content_type=content_type), 415)

    def test_415_for_another_encoding(self, token: str) -> None:
        assert_problem(post_body(token, headers={"Content-Encoding": "br"}), 415, "gzip, zstd")

    @pytest.mark.parametrize("method", ["get", "put", "patch", "delete"])
    def test_405(self, token: str, method: str) -> None:
        response = getattr(Client(), method)(URL, headers={"Authorization": f"Bearer {token}"})
        assert_problem(response, 405)
        assert "POST" in response["Allow"]

    def test_503_while_too_many_uplinks_wait(self, token: str, concentrator: Concentrator, settings: Settings) -> None:
        settings.UPLINK_QUEUE_MAX = 0
        assert post_body(token).status_code == 202
        waiting = Uplink.objects.get()
        refused = Client()
        time.sleep(1.01)  # the door looks once a second
        response = refused.post(
            URL, BODY + b"\x40", content_type=CBOR_SEQUENCE, headers={"Authorization": f"Bearer {token}"}
        )
        assert (response.status_code, int(response["Retry-After"]) > 0) == (503, True)
        assert response["Content-Type"] == "application/problem+json"
        assert list(Uplink.objects.all()) == [waiting]

    def test_503_while_the_database_is_away(self, token: str, monkeypatch: pytest.MonkeyPatch) -> None:
        def away(*_: object) -> None:
            raise OperationalError("secret address")

        monkeypatch.setattr("concentrators.ingest.uplink_state.fetch_rows", away)
        response = post_body(token)
        assert_problem(response, 503)
        assert int(response["Retry-After"]) > 0
        assert "secret" not in response.content.decode()


class TestAuthentication:
    @pytest.mark.parametrize(
        "authorization",
        [None, "", "Bearer", "Bearer ", "Bearer nonsense", "Basic dTpw", "Bearer caf\u00e9", "Bearer " + "x" * 5000],
    )
    def test_401_with_one_challenge(self, concentrator: Concentrator, authorization: str | None) -> None:
        headers = {} if authorization is None else {"Authorization": authorization}
        for response in (
            Client().post(URL, BODY, content_type=CBOR_SEQUENCE, headers=headers),
            Client().get(f"{URL}/1", headers=headers),
        ):
            assert_problem(response, 401)
            assert response["WWW-Authenticate"] == 'Bearer realm="ami-headend"'

    def test_a_person_is_no_concentrator(self, concentrator: Concentrator) -> None:
        client = Client()
        client.force_login(User.objects.create_superuser("someone"))
        assert_problem(client.post(URL, BODY, content_type=CBOR_SEQUENCE), 401)

    def test_expired_revoked_and_inactive_get_the_same_answer(self, concentrator: Concentrator) -> None:
        now = timezone.now()
        refused = [
            tokens.issue(concentrator, expires_at=now),
            tokens.issue(concentrator, "revoked"),
            "dcu_unknown",
        ]
        tokens.revoke(ConcentratorToken.objects.get(label="revoked"))
        answers = [post_body(token) for token in refused]
        good = tokens.issue(concentrator, expires_at=now + timedelta(minutes=5))
        Concentrator.objects.update(is_active=False)
        answers.append(post_body(good))
        for response in answers:
            assert_problem(response, 401)
        assert len({response.content for response in answers}) == 1
        Concentrator.objects.update(is_active=True)
        assert post_body(good).status_code == 202

    def test_421_for_a_token_of_another_cell_whether_it_would_be_valid_or_not(
        self, concentrator: Concentrator, settings: Settings
    ) -> None:
        settings.CELL = "a"
        gone = tokens.issue(concentrator, "revoked")
        tokens.revoke(ConcentratorToken.objects.get(digest=bearer.digest(gone)))
        known = tokens.issue(concentrator)
        settings.CELL = "b"
        unknown = bearer.new(bearer.CONCENTRATOR, "a")
        answers = [post_body(token) for token in (gone, unknown)]
        for response in answers:
            assert_problem(response, 421)
            assert response.json()["title"] == "Misdirected Request"
            assert response.json()["detail"].startswith("The token is of cell a, and this is cell b:")
        assert answers[0].content == answers[1].content
        assert_problem(post_body(bearer.new(bearer.CONCENTRATOR, "b")), 401)
        settings.CELL = ""
        response = post_body(unknown)
        assert_problem(response, 421)
        assert "CELL is not set" in response.json()["detail"]
        assert unknown not in response.content.decode()
        settings.CELL = "b"
        assert post_body(known).status_code == 202  # as after a split

    def test_several_tokens_at_once(self, concentrator: Concentrator) -> None:
        receipts = [post_body(tokens.issue(concentrator, str(n))).json() for n in range(3)]
        assert receipts[0] == receipts[1] == receipts[2]


class TestStatus:
    def test_it_tells_how_many_and_never_why(
        self, token: str, concentrator: Concentrator, other_concentrator: Concentrator
    ) -> None:
        device = commission(1, concentrator)[0]
        frame = device.frame(0)
        bodies = [[frame, frame, b"garbage"], [frame, damaged(device.frame(1)), device.seal(b"")]]
        for frames in bodies:
            receipt = post_body(token, encode_sequence(frames)).json()
            before = get_status(token, receipt["uplink"]).json()
            assert before == {
                **receipt,
                "received_at": before["received_at"],
                "verified": False,
                "accepted": 0,
                "duplicate": 0,
                "rejected": 0,
                "waiting": 0,
            }
            verification.verify(receipt["uplink"])
            after = get_status(token, receipt["uplink"]).json()
            assert set(after) == set(before)
            assert after["verified"] is True
            assert after["accepted"] + after["duplicate"] + after["rejected"] == 3
        assert (after["accepted"], after["duplicate"], after["rejected"]) == (0, 1, 2)

    def test_404_for_the_uplink_of_another(self, token: str, other_concentrator: Concentrator) -> None:
        uplink_id = post_body(token).json()["uplink"]
        assert get_status(token, uplink_id).status_code == 200
        other = tokens.issue(other_concentrator)
        foreign, none = get_status(other, uplink_id), get_status(other, uplink_id + 1)
        assert (foreign.status_code, none.status_code) == (404, 404)
        assert foreign.json()["detail"] == none.json()["detail"]

    @pytest.mark.parametrize("uplink_id", ["0", "99999999999999999999999", "x", "-1", "1/"])
    def test_404_for_what_is_no_uplink(self, token: str, uplink_id: str) -> None:
        assert_problem(get_status(token, uplink_id), 404)


def test_without_a_broker_the_octets_are_stored_and_the_sweep_finds_them(
    token: str, concentrator: Concentrator, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delattr(tasks.verify_backlog, "apply_async")  # the real one
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))  # nobody listens
        address = f"redis://127.0.0.1:{taken.getsockname()[1]}/0"
        with app.connection_for_write(address) as dead:
            monkeypatch.setattr(
                app, "producer_or_acquire", lambda *_, **__: app.amqp.Producer(dead, auto_declare=False)
            )
            started = time.monotonic()
            response = post_body(token)
    assert response.status_code == 202
    assert time.monotonic() - started < 4
    uplink = Uplink.objects.get()
    assert uplink_state.claim_overdue(uplink.due_at - timedelta(seconds=1)) == []
    assert uplink_state.claim_overdue(uplink.due_at) == [uplink.pk]


class TestRate:
    @pytest.fixture(autouse=True)
    def emptied(self) -> None:
        """Redis outlives the rows of a test."""
        rate_limits.limiter().storage.reset()

    def test_429_beyond_the_rate_of_one_concentrator(
        self, token: str, other_concentrator: Concentrator, settings: Settings
    ) -> None:
        settings.UPLINK_RATE = "3/hour"
        answers = [post_body(token, encode_sequence([bytes([n])])) for n in range(5)]
        assert [response.status_code for response in answers] == [202, 202, 202, 429, 429]
        assert 0 < int(answers[-1]["Retry-After"]) <= 3600
        assert answers[-1]["Content-Type"] == "application/problem+json"
        assert Uplink.objects.count() == 3
        assert post_body(tokens.issue(other_concentrator)).status_code == 202
        assert get_status(token, answers[0].json()["uplink"]).status_code == 200

    def test_a_redis_that_goes_between_refusing_and_saying_for_how_long(
        self, token: str, settings: Settings, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        def gone(*_: object) -> None:
            raise RedisConnectionError

        settings.UPLINK_RATE = "1/hour"
        monkeypatch.setattr(rate_limits.limiter(), "get_window_stats", gone)
        answers = [post_body(token, encode_sequence([bytes([n])])) for n in range(2)]
        assert [response.status_code for response in answers] == [202, 429]
        assert answers[-1]["Retry-After"] == "1"

    def test_without_redis_none_is_refused(
        self, token: str, settings: Settings, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        settings.UPLINK_RATE = "1/hour"
        with socket.socket() as taken:
            taken.bind(("127.0.0.1", 0))
            settings.REDIS_URL = f"redis://127.0.0.1:{taken.getsockname()[1]}/0"
            rate_limits.limiter.cache_clear()
            try:
                started = time.monotonic()
                assert [post_body(token, encode_sequence([bytes([n])])).status_code for n in range(3)] == [202] * 3
                assert time.monotonic() - started < 4
            finally:
                rate_limits.limiter.cache_clear()


def test_received_at_is_ours(token: str) -> None:
    response = post_body(token, headers={"Date": "Thu, 01 Jan 1970 00:00:00 GMT"})
    assert response.status_code == 202
    assert Uplink.objects.get().received_at >= NOW
