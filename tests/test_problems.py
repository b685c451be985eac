import json
from typing import Any

import psycopg
import pytest
from django.contrib.auth.models import User
from django.core.exceptions import PermissionDenied, RequestDataTooBig, SuspiciousOperation, TooManyFilesSent
from django.db import DatabaseError, IntegrityError, OperationalError
from django.http import Http404
from django.test import Client, RequestFactory
from rest_framework import exceptions, serializers
from rest_framework.authentication import BasicAuthentication, SessionAuthentication
from rest_framework.response import Response
from rest_framework.test import APIRequestFactory
from rest_framework.views import APIView

from ami_headend.web import problems


def answer_to(error: Exception) -> Any:
    """What a view answers that raises an error."""

    class Failing(APIView):
        authentication_classes = (SessionAuthentication, BasicAuthentication)
        permission_classes = ()

        def get(self, request: object) -> Response:
            raise error

    return Failing.as_view()(APIRequestFactory().get("/api/v1/thing"))


@pytest.mark.parametrize(
    ("error", "status", "title", "detail"),
    [
        (exceptions.ParseError("Not CBOR."), 400, "Bad Request", "Not CBOR."),
        (exceptions.NotAuthenticated(), 401, "Unauthorized", "Authentication credentials were not provided."),
        (exceptions.AuthenticationFailed("No such token."), 401, "Unauthorized", "No such token."),
        (PermissionDenied(), 403, "Forbidden", "You do not have permission to perform this action."),
        (Http404(), 404, "Not Found", "Not found."),
        (exceptions.UnsupportedMediaType("text/xml"), 415, "Unsupported Media Type", None),
    ],
)
def test_an_error_is_told_as_a_problem(error: Exception, status: int, title: str, detail: str | None) -> None:
    response = answer_to(error)
    body = json.loads(response.content)
    assert (response.status_code, response["Content-Type"]) == (status, "application/problem+json")
    assert {name: body[name] for name in ("type", "title", "status", "instance")} == {
        "type": "about:blank",
        "title": title,
        "status": status,
        "instance": "/api/v1/thing",
    }
    assert detail is None or body["detail"] == detail
    assert "errors" not in body
    assert ("WWW-Authenticate" in response) == (status == 401)


def test_fields_at_fault_are_named() -> None:
    class Item(serializers.Serializer[Any]):
        serial = serializers.CharField()

    class Order(serializers.Serializer[Any]):
        items = Item(many=True)
        ids = serializers.ListField(child=serializers.IntegerField())

        def validate(self, attrs: object) -> object:
            raise serializers.ValidationError("Too much.")

    order = Order(data={"items": [{"serial": "1"}, {}], "ids": [1, "x"]})
    assert not order.is_valid()
    response = answer_to(exceptions.ValidationError(order.errors))
    body = json.loads(response.content)
    assert body["errors"] == [
        {"name": "items.1.serial", "detail": "This field is required."},
        {"name": "ids", "detail": "A valid integer is required."},
    ]

    whole = Order(data={"items": [], "ids": []})
    assert not whole.is_valid()
    body = json.loads(answer_to(exceptions.ValidationError(whole.errors)).content)
    assert body["detail"] == "Too much."
    assert "errors" not in body


def test_retry_after_is_kept_and_never_too_short() -> None:
    response = answer_to(exceptions.Throttled(wait=2.1))
    assert (response.status_code, response["Retry-After"]) == (429, "3")


def test_a_database_that_is_away_is_503_and_tells_nothing(caplog: pytest.LogCaptureFixture) -> None:
    response = answer_to(OperationalError("connection to 10.0.0.7 failed: password of user hes"))
    assert (response.status_code, response["Retry-After"]) == (503, "5")
    assert b"10.0.0.7" not in response.content
    assert "10.0.0.7" in caplog.text


@pytest.mark.parametrize(
    ("sqlstate", "said"),
    [("25006", "cannot be written"), ("0A000", "has another schema"), ("55P03", "took too long"), ("53100", "no room")],
)
def test_troubles_of_the_database_pass_on_pages_and_api(
    monkeypatch: pytest.MonkeyPatch, sqlstate: str, said: str
) -> None:
    """By SQLSTATE: the classes of these errors are no OperationalError, some of them."""
    error = DatabaseError("as Django wraps it")
    error.__cause__ = psycopg.errors.lookup(sqlstate)("of 10.0.0.7")

    def fail(*args: object) -> None:
        raise error

    of_api = answer_to(error)
    monkeypatch.setattr("ami_headend.signin.sessions.SessionLimits.__call__", fail)  # in a middleware, not in a view
    client = Client(raise_request_exception=False)
    of_page, of_unknown = client.get("/admin/login/"), client.get("/api/v1/nothing")
    for response in (of_api, of_page, of_unknown):
        assert (response.status_code, response["Retry-After"]) == (503, "5")
        assert said in response.content.decode()
        assert b"10.0.0.7" not in response.content
    assert of_page["Content-Type"].startswith("text/html")
    assert of_unknown["Content-Type"] == of_api["Content-Type"] == "application/problem+json"


@pytest.mark.parametrize("sqlstate", ["23505", "23503"])
def test_a_lost_race_is_told_as_one(monkeypatch: pytest.MonkeyPatch, sqlstate: str) -> None:
    error = IntegrityError("as Django wraps it")
    error.__cause__ = psycopg.errors.lookup(sqlstate)("Key (name)=(secret) already exists")

    def fail(*args: object) -> None:
        raise error

    of_api = answer_to(error)
    monkeypatch.setattr("ami_headend.signin.sessions.SessionLimits.__call__", fail)
    client = Client(raise_request_exception=False)
    for response in (of_api, client.get("/admin/login/"), client.get("/api/v1/nothing")):
        assert response.status_code == 409
        assert "at the same moment" in response.content.decode()
        assert b"secret" not in response.content
    assert of_api["Content-Type"] == "application/problem+json"


def test_a_fault_of_ours_tells_nothing() -> None:
    error = ValueError("secret")
    with pytest.raises(ValueError, match="secret"):  # left to handler500 and the log
        answer_to(error)
    response = problems.server_error(RequestFactory().get("/api/v1/thing"))
    assert (response.status_code, response["Content-Type"]) == (500, "application/problem+json")
    assert b"secret" not in response.content


def test_pages_outside_of_the_api_stay_pages() -> None:
    request = RequestFactory().get("/admin/nothing")
    for response in (
        problems.bad_request(request, SuspiciousOperation()),
        problems.permission_denied(request, PermissionDenied()),
        problems.not_found(request, Http404()),
        problems.server_error(request),
    ):
        assert response["Content-Type"].startswith("text/html")


@pytest.mark.django_db
def test_unknown_paths_methods_and_formats_of_the_api(client: Client) -> None:
    client.force_login(User.objects.create_superuser("root"))
    for response, status in (
        (client.get("/api/v2/meters"), 404),
        (client.get("/api/v1/meters/"), 404),
        (client.get("/api/v1/nothing"), 404),
        (client.delete("/api/v1/meters"), 405),
        (client.post("/api/v1/rotations", "[" * 50_000, content_type="application/json"), 400),
        (client.get("/api/v1/meters", headers={"Host": "evil.example"}), 400),
    ):
        assert (response.status_code, response["Content-Type"]) == (status, "application/problem+json")
    assert client.delete("/api/v1/meters")["Allow"] == "GET, HEAD, OPTIONS"
    usual = client.get("/api/v1/meters", headers={"Accept": "text/plain"})  # RFC 9110 section 12.4.1
    assert (usual.status_code, usual["Content-Type"]) == (200, "application/json")


@pytest.mark.django_db
def test_reading_and_writing_are_permissions_of_their_own(client: Client) -> None:
    client.force_login(User.objects.create_user("nobody"))
    for method in ("get", "head", "options"):
        assert getattr(client, method)("/api/v1/meters").status_code == 403


@pytest.mark.django_db
def test_the_schema_tells_of_problems(client: Client) -> None:
    schema = client.get("/api/schema/?format=json").json()
    answer = schema["paths"]["/api/v1/readings"]["get"]["responses"]["default"]
    assert answer["content"] == {"application/problem+json": {"schema": {"$ref": "#/components/schemas/Problem"}}}
    assert "Problem" in schema["components"]["schemas"]
    assert client.get("/api/docs/").status_code == 200


@pytest.mark.django_db
@pytest.mark.parametrize("address", ["/admin/failures/", "/admin/login/", "/sign-in/confirm/", "/api/v1/places"])
def test_more_fields_than_are_read_are_told_of_in_one_line(address: str, caplog: pytest.LogCaptureFixture) -> None:
    client = Client(raise_request_exception=False)
    client.force_login(User.objects.create_superuser("root"))
    sent = "&".join(f"failure={number}" for number in range(1_001))
    is_program = address.startswith("/api/")
    if is_program:
        response = client.get(f"{address}?{sent}")
    else:
        response = client.post(address, sent, content_type="application/x-www-form-urlencoded")
    assert response.status_code == 400
    assert "More than 1,000 fields were sent; nothing was done." in response.content.decode()
    assert response["Content-Type"] == (problems.CONTENT_TYPE if is_program else "text/html; charset=utf-8")
    assert [record.exc_info for record in caplog.records if record.levelname == "ERROR"] == [None]
    assert "Traceback" not in caplog.text


@pytest.mark.parametrize(
    ("error", "said"),
    [(TooManyFilesSent(), "100 files"), (RequestDataTooBig(), "2,621,440 octets"), (SuspiciousOperation("x"), "")],
)
def test_what_is_too_much_is_said(error: Exception, said: str) -> None:
    for path in ("/admin/", "/api/v1/rotations"):
        assert said in problems.bad_request(RequestFactory().get(path), error).content.decode()
