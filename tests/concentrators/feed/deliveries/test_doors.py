"""Deliveries over REST and in the admin: made, changed, shown, removed; secrets once."""

from pathlib import Path
from typing import Any

import pytest
from django.test import Client
from django.urls import reverse
from pytest_django import Settings

from ami_headend.signin import roles
from concentrators.feed.deliveries import configuration
from concentrators.fleet import groups
from concentrators.models import FeedDelivery, FeedSubscription
from keyvault.audit.chain import Actor
from keyvault.models import AuditRecord, SigningSecret
from meters.registry.groups import GroupName
from tests.concentrators.feed.deliveries.sftp_server import new_key
from tests.console.people import person

pytestmark = pytest.mark.django_db
ADDRESS = "/api/v1/feed/subscriptions/billing/delivery"
HOOK = {"kind": "webhook", "address": "https://billing.example/feed"}


@pytest.fixture
def admin() -> Client:
    return person(roles.ADMINISTRATOR)


@pytest.fixture
def host_key() -> str:
    key = new_key()
    return f"{key.get_name()} {key.get_base64()}"


def put(client: Client, **body: Any) -> Any:
    return client.put(ADDRESS, body, content_type="application/json")


class TestRest:
    def test_made_changed_shown_and_removed(self, admin: Client) -> None:
        group = groups.make(GroupName("district", "North"), Actor("tester", "test"))
        made = put(admin, **HOOK, resource="events", at_end=True, group=["district:North"])
        assert made.status_code == 200, made.content
        said = made.json()
        assert said["secret"].startswith("whsec_")
        assert (said["rows"], said["wait_minutes"], said["format"], said["group"]) == (1_000, 0, "ndjson", str(group))
        assert FeedSubscription.objects.get(name="billing").resource == "events"
        changed = put(admin, rows=5, group=[], is_enabled=False).json()
        assert (changed["secret"], changed["rows"], changed["group"], changed["is_enabled"]) == ("", 5, None, False)
        shown = person(roles.AUDITOR).get(ADDRESS).json()
        assert "secret" not in shown
        assert shown == {key: value for key, value in changed.items() if key in shown}
        assert admin.post(f"{ADDRESS}/secret").json()["secret"] != said["secret"]
        assert person(roles.OPERATOR).get(ADDRESS.removesuffix("/delivery")).json()["is_delivered"] is True
        assert admin.delete(ADDRESS).status_code == 204
        assert [admin.get(ADDRESS).status_code, admin.delete(ADDRESS).status_code] == [404, 404]
        assert admin.post(f"{ADDRESS}/secret").status_code == 404
        assert not SigningSecret.objects.filter(owner__startswith="feed delivery").exists()

    @pytest.mark.parametrize(
        ("body", "why"),
        [
            ({}, "kind and address"),
            ({**HOOK, "rows": 20_001}, "rows is 1 to 20,000 for a webhook"),
            ({**HOOK, "format": "xlsx"}, "xlsx"),
            ({**HOOK, "group": ["district:Nowhere"]}, "no group district:Nowhere"),
            ({**HOOK, "address": "https://169.254.169.254/"}, "WEBHOOK_REFUSED_NETWORKS"),
            ({"kind": "folder", "address": "/etc"}, "FEED_FOLDERS"),
            ({**HOOK, "password": "correct horse"}, "only an SFTP server asks for a password"),
            ({**HOOK, "host_key": "ssh-ed25519 AAAA"}, "only an SFTP server has a host key"),
        ],
    )
    def test_what_cannot_be_is_told(self, body: Any, why: str, admin: Client) -> None:
        answer = put(admin, **body)
        assert answer.status_code == 400
        assert why in str(answer.json())
        assert not FeedSubscription.objects.exists()

    def test_one_is_paused_though_its_folder_is_refused_by_now(
        self, admin: Client, tmp_path: Path, settings: Settings
    ) -> None:
        settings.FEED_FOLDERS = [str(tmp_path)]
        assert put(admin, kind="folder", address=str(tmp_path)).status_code == 200
        settings.FEED_FOLDERS = []
        assert "FEED_FOLDERS" in str(put(admin, is_enabled=False, rows=7).json())
        assert put(admin, is_enabled=False).json()["is_enabled"] is False
        assert "FEED_FOLDERS" in str(put(admin, is_enabled=True).json())

    def test_a_password_is_never_shown(self, admin: Client, host_key: str) -> None:
        body = {
            "kind": "sftp",
            "address": "sftp://ami@mdm.example/in",
            "host_key": host_key,
            "password": "correct horse",
        }
        for answer in (put(admin, **body), admin.get(ADDRESS), put(admin, password="another horse")):
            assert answer.status_code == 200
            assert "horse" not in answer.content.decode()
        assert all("horse" not in str(row.subject) for row in AuditRecord.objects.all())


class TestAdmin:
    @pytest.fixture(autouse=True)
    def _folders(self, settings: Settings, tmp_path: Path) -> None:
        settings.FEED_FOLDERS = [str(tmp_path)]

    def posted(self, admin: Client, **body: Any) -> Any:
        usual = {"name": "billing", "resource": "readings", "format": "csv", "is_enabled": "on"}
        return admin.post(reverse("admin:concentrators_feeddelivery_add"), {**usual, **body})

    def test_a_webhook_and_its_secret_once(self, admin: Client) -> None:
        page = self.posted(admin, **HOOK).content.decode()
        assert "whsec_" in page
        delivery = FeedDelivery.objects.get()
        assert (delivery.rows, delivery.wait_minutes, delivery.format) == (1_000, 0, "csv")
        address = reverse("admin:concentrators_feeddelivery_change", args=[delivery.pk])
        for text in ("nothing sent yet", "https://billing.example/feed"):
            assert text in admin.get(address).content.decode()
        assert "whsec_" not in admin.get(address).content.decode()
        assert "billing" in admin.get(reverse("admin:concentrators_feeddelivery_changelist")).content.decode()
        again = admin.post(reverse("admin:concentrators_feeddelivery_new_secret", args=[delivery.pk]))
        assert "whsec_" in again.content.decode()

    def test_changed_and_removed(self, admin: Client, tmp_path: Path) -> None:
        assert self.posted(admin, kind="folder", address=str(tmp_path)).status_code == 302
        delivery = FeedDelivery.objects.get()
        address = reverse("admin:concentrators_feeddelivery_change", args=[delivery.pk])
        body = {"address": str(tmp_path), "format": "parquet", "rows": 7, "wait_minutes": 1}
        assert admin.post(address, body).status_code == 302
        delivery.refresh_from_db()
        assert (delivery.format, delivery.rows, delivery.is_enabled) == ("parquet", 7, False)
        assert "paused" in admin.get(address).content.decode()
        removed = admin.post(reverse("admin:concentrators_feeddelivery_delete", args=[delivery.pk]), {"post": "yes"})
        assert removed.status_code == 302
        assert not FeedDelivery.objects.exists()
        acts = [row.act for row in AuditRecord.objects.order_by("number") if row.act.startswith("feed_delivery")]
        assert acts == ["feed_delivery.create", "feed_delivery.change", "feed_delivery.delete"]

    def test_sftp_shows_our_public_key_or_that_there_is_a_password(self, admin: Client, host_key: str) -> None:
        sftp = {"kind": "sftp", "address": "sftp://ami@mdm.example/in", "host_key": host_key}
        assert "authorized_keys" in self.posted(admin, **sftp).content.decode()
        address = reverse("admin:concentrators_feeddelivery_change", args=[FeedDelivery.objects.get().pk])
        assert "ssh-ed25519 AAAA" in admin.get(address).content.decode()
        body = {"address": sftp["address"], "format": "csv", "host_key": host_key, "password": "correct horse"}
        assert admin.post(address, body).status_code == 302
        page = admin.get(address).content.decode()
        assert ("has a password" in page, "horse" in page) == (True, False)

    @pytest.mark.parametrize(
        ("body", "why"),
        [
            ({"kind": "webhook", "address": "http://x.example/"}, "must begin with https"),
            ({"kind": "folder", "address": "/etc"}, "FEED_FOLDERS"),
            ({**HOOK, "name": "../up"}, "cannot name files"),
            ({**HOOK, "rows": "0"}, "rows is 1 to"),
            ({"kind": "sftp", "address": "sftp://ami@mdm.example/in"}, "ssh-keyscan"),
            ({"kind": "sftp", "address": "sftp://ami@mdm.example/in", "password": "ü" * 127}, "1 to 127 octets"),
            *(
                ({**address, given: "correct horse"}, f"only an SFTP server {why}")
                for address in (HOOK, {"kind": "folder", "address": "/"})
                for given, why in (("password", "asks for a password"), ("host_key", "has a host key"))
            ),
        ],
    )
    def test_what_cannot_be_is_said_at_the_form(self, body: Any, why: str, admin: Client) -> None:
        answer = self.posted(admin, **body)
        assert answer.status_code == 200
        assert why in answer.content.decode()
        assert not FeedSubscription.objects.exists()

    @pytest.mark.parametrize("kind", ["webhook", "folder", "sftp"])
    def test_every_field_too_long(self, kind: str, admin: Client, tmp_path: Path, host_key: str) -> None:
        address = {"webhook": HOOK["address"], "folder": str(tmp_path), "sftp": "sftp://ami@mdm.example/in"}[kind]
        right = {"kind": kind, "address": address, **({"host_key": host_key} if kind == "sftp" else {})}
        for field in (
            "name", "resource", "kind", "address", "format", "rows", "wait_minutes", "group", "host_key", "password"
        ):  # fmt: skip
            for value in (f"{right.get(field, '')}{'/x' * 600}", "9" * 5_000):
                answer = self.posted(admin, **{**right, field: value})
                assert answer.status_code == 200, (field, value[:20])
                assert field in answer.context["adminform"].form.errors
        assert not FeedSubscription.objects.exists()

    def test_no_more_subscriptions_than_there_may_be(self, admin: Client, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(configuration, "MOST", 0)
        assert "there are 0 subscriptions already" in self.posted(admin, **HOOK).content.decode()
        assert not FeedSubscription.objects.exists()

    def test_one_is_paused_though_its_folder_is_refused_by_now(
        self, admin: Client, tmp_path: Path, settings: Settings
    ) -> None:
        self.posted(admin, kind="folder", address=str(tmp_path))
        settings.FEED_FOLDERS = []
        delivery = FeedDelivery.objects.get()
        address = reverse("admin:concentrators_feeddelivery_change", args=[delivery.pk])
        body = {"address": str(tmp_path), "format": "csv", "rows": delivery.rows, "wait_minutes": delivery.wait_minutes}
        for refused in ({**body, "rows": 7}, {**body, "is_enabled": "on"}):
            assert "FEED_FOLDERS" in admin.post(address, refused).content.decode()
        assert admin.post(address, body).status_code == 302
        assert FeedDelivery.objects.get().is_enabled is False
        assert admin.post(address, body).status_code == 302, "it stays so"

    def test_a_subscription_has_one(self, admin: Client) -> None:
        self.posted(admin, **HOOK)
        assert "has a delivery: change that one" in self.posted(admin, **HOOK).content.decode()
