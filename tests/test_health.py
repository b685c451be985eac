"""Probes: what they need, what they tell, and that they are answered by the address of a host."""

from pathlib import Path

import pytest
from django.db import connection
from django.test import Client
from pytest_django import Settings

from keyvault import master_key
from keyvault.device_keys import provisioning
from keyvault.models import DeviceKey
from tests.damage import damaged

TITLES = [bytes.fromhex(f"0024befffe00000{number}") for number in range(3)]


@pytest.fixture
def behind_tls(settings: Settings) -> None:
    settings.SECURE_SSL_REDIRECT = True
    settings.ALLOWED_HOSTS = ["headend.example"]


@pytest.mark.usefixtures("behind_tls")
def test_liveness_needs_nothing() -> None:
    """No database (this test may use none), no name of a host, no TLS."""
    answer = Client().get("/health/live", headers={"host": "10.0.0.7:8000"})
    assert (answer.status_code, answer.json()) == (200, {"live": True})


@pytest.mark.django_db
@pytest.mark.usefixtures("behind_tls")
def test_probes_and_metrics_are_answered_by_address(settings: Settings) -> None:
    settings.METRICS_TOKEN = "scrape"
    for path in ("/health/ready", "/metrics"):
        headers = {"host": "10.0.0.7:8000", "authorization": "Bearer scrape"}
        assert Client().get(path, headers=headers).status_code == 200, path
        assert Client().post(path, headers=headers).status_code == 405, path
    # A person comes by name and TLS as to any page.
    assert Client().get("/metrics", headers={"host": "10.0.0.7"}).status_code == 400
    assert Client().get("/metrics", headers={"host": "headend.example"}).status_code == 301


@pytest.mark.django_db
def test_not_ready_with_a_master_key_that_opens_nothing(settings: Settings, tmp_path: Path, client: Client) -> None:
    assert client.get("/health/ready").status_code == 200  # no key is stored: nothing is wrong
    provisioning.provision_devices(TITLES)
    assert client.get("/health/ready").status_code == 200
    other = tmp_path / "other.keys"
    master_key.init(other)
    settings.MASTER_KEY_FILE = other
    answer = client.get("/health/ready")
    assert answer.status_code == 503
    assert answer.json()["checks"] == {"database": "ok", "journal": "ok", "master_key": "failed"}


@pytest.mark.django_db
def test_one_damaged_key_does_not_take_the_head_end_away(client: Client) -> None:
    provisioning.provision_devices(TITLES)
    newest = DeviceKey.objects.order_by("-pk")[0]
    DeviceKey.objects.filter(pk=newest.pk).update(wrapped=damaged(newest.wrapped))
    assert client.get("/health/ready").status_code == 200


@pytest.mark.django_db
def test_not_ready_where_nothing_can_be_written(client: Client) -> None:
    with connection.cursor() as cursor:
        cursor.execute("SET TRANSACTION READ ONLY")
    answer = client.get("/health/ready")
    assert (answer.status_code, answer.json()["checks"]["database"]) == (503, "failed")
