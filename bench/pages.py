"""Pages at a million meters: a signed-in session against the real web server, alone and beside users and ingest."""

import http.client
import http.cookies
import secrets
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from datetime import timedelta
from statistics import median
from typing import NamedTuple
from urllib.parse import urlencode

from django.contrib.auth.models import User
from django.db import connection, connections
from django.utils import timezone

from ami_headend import cached_answers
from ami_headend.console.overview_panels import QUESTIONS
from bench import addresses, fleet, million
from bench.addresses import Address
from bench.fleet import Fleet
from bench.load import LoadError, Posted, post
from bench.site import Site
from bench.stack import Stack, memory_octets
from concentrators.fleet import tokens
from concentrators.models import Concentrator, IntervalTotal
from keyvault import master_key
from keyvault.cose.kdf import derived_device_key
from keyvault.master_key import Purpose
from keyvault.models import FleetKey, InvocationCounter
from meters.models import Meter

LIMIT_S = 0.2
_THINK_S = 2.0
_FRAMES = 200  # in an uplink; five uplinks a second
_SAMPLE_S = 0.2


class Asked(NamedTuple):
    """How often: requests to an address that fill caches, those that count after them, and users beside ingest."""

    warm: int
    counted: int
    users: int


class Timed(NamedTuple):
    """An address, and the times of its answers in seconds."""

    address: Address
    seconds: list[float]


class Export(NamedTuple):
    """A download: rows, seconds, and the growth of the web server's memory in octets."""

    name: str
    rows: int
    seconds: float
    grew: int


@dataclass
class PageResults:
    """The results of pages."""

    timed: list[Timed] = field(default_factory=list)
    exports: list[Export] = field(default_factory=list)
    with_users: list[float] = field(default_factory=list)  # pages of twenty users beside ingest
    posts: list[float] = field(default_factory=list)  # uplinks posted beside them


class Session:
    """A signed-in browser, for timing: one open connection and its cookies."""

    def __init__(self, port: int) -> None:
        self._connection = http.client.HTTPConnection("127.0.0.1", port, timeout=120)
        self._cookies: dict[str, str] = {}

    def get(self, path: str) -> tuple[int, bytes]:
        """Return status and body of a page."""
        response = self._ask("GET", path)
        return response.status, response.read()

    def download(self, path: str) -> tuple[int, int]:
        """Download without storing; return octets and lines."""
        response = self._ask("GET", path)
        if response.status != 200:
            raise LoadError(f"{path} answered {response.status}: {response.read(300)!r}")
        octets = lines = 0
        while part := response.read(1 << 16):
            octets += len(part)
            lines += part.count(b"\n")
        return octets, lines

    def sign_in(self, name: str, password: str) -> None:
        """Sign in on the page. LoadError if that does not lead to the overview."""
        self.get("/admin/login/")
        form = urlencode(
            {"csrfmiddlewaretoken": self._cookies["csrftoken"], "username": name, "password": password}
        ).encode()
        response = self._ask("POST", "/admin/login/", form)
        response.read()
        if response.status != 302 or "sign-in" in (response.getheader("Location") or ""):
            raise LoadError(f"signing in answered {response.status}, to {response.getheader('Location')}")

    def _ask(self, method: str, path: str, body: bytes | None = None) -> http.client.HTTPResponse:
        headers = {"Cookie": "; ".join(f"{name}={value}" for name, value in self._cookies.items())}
        if body is not None:
            headers["Content-Type"] = "application/x-www-form-urlencoded"
        self._connection.request(method, path, body, headers)
        response = self._connection.getresponse()
        for line in response.headers.get_all("Set-Cookie") or []:
            for name, morsel in http.cookies.SimpleCookie(line).items():
                self._cookies[name] = morsel.value
        return response


def measure(stack: Stack, asked: Asked, executor: object, say: Callable[[str], None]) -> PageResults:
    """Measure all of it, over the database that Django is connected to."""
    results = PageResults()
    password = secrets.token_urlsafe(16)
    User.objects.filter(username="bench").delete()
    User.objects.create_superuser("bench", password=password)
    session = Session(stack.port)
    session.sign_in("bench", password)
    say("renewing cached answers, as the schedule does")
    cached_answers.renew(QUESTIONS, timezone.now())
    wanted = addresses.every()
    say(f"{len(wanted)} addresses, {asked.counted} requests each")
    for address in wanted:
        results.timed.append(_timed(session, address, asked))
    for name, path in _exports():
        say(f"downloading {name}")
        results.exports.append(_export(stack, session, name, path))
    usual = [timed.address for timed in results.timed if median(timed.seconds) < 5 * LIMIT_S]
    say(f"{asked.users} users, and 1,000 frames/s")
    _beside_ingest(stack, (asked.users, "bench", password), usual, executor, results)
    return results


def _timed(session: Session, address: Address, asked: Asked) -> Timed:
    seconds = []
    for number in range(asked.warm + asked.counted):
        began = time.perf_counter()
        status, body = session.get(address.path)
        if status != 200:
            raise LoadError(f"{address.path} answered {status}: {body[:300]!r}")
        if number >= asked.warm:
            seconds.append(time.perf_counter() - began)
        if sum(seconds) > 10:
            break
    return Timed(address, seconds)


def _exports() -> list[tuple[str, str]]:
    newest = IntervalTotal.objects.latest("interval_start").interval_start
    half_hour = {"from": newest.isoformat(), "to": (newest + timedelta(minutes=30)).isoformat()}
    month = {"from": (newest - timedelta(days=31)).isoformat(), "to": newest.isoformat()}
    return [
        ("readings as CSV", f"/api/v1/readings?{urlencode({**half_hour, 'format': 'csv'})}"),
        ("readings as Parquet", f"/api/v1/readings?{urlencode({**half_hour, 'format': 'parquet'})}"),
        ("totals as CSV", f"/api/v1/totals?{urlencode({**month, 'format': 'csv'})}"),
    ]


def _export(stack: Stack, session: Session, name: str, path: str) -> Export:
    web = {"web": stack.processes["web"].pid}
    before, peak, is_done = memory_octets(web)["web"], [0], threading.Event()

    def watch() -> None:
        while not is_done.wait(_SAMPLE_S):
            peak[0] = max(peak[0], memory_octets(web)["web"])

    watcher = threading.Thread(target=watch)
    watcher.start()
    began = time.perf_counter()
    try:
        _, lines = session.download(path)
    finally:
        is_done.set()
        watcher.join()
    seconds = time.perf_counter() - began
    rows = lines - 1 if "format=csv" in path else 0
    return Export(name, rows, seconds, max(0, peak[0] - before))


def _beside_ingest(
    stack: Stack, accounts: tuple[int, str, str], usual: list[Address], executor: object, results: PageResults
) -> None:
    number, *account = accounts
    site = posting_site()
    frames = fleet.seal(executor, site.fleet, site.next_interval, 1)  # type: ignore[arg-type]
    bodies = site.bodies(frames, _FRAMES)
    ended = threading.Event()

    def user(number: int) -> list[float]:
        session = Session(stack.port)
        session.sign_in(*account)
        seconds: list[float] = []
        while not ended.is_set():
            began = time.perf_counter()
            session.get(usual[(number * 7 + len(seconds) * 13) % len(usual)].path)
            seconds.append(time.perf_counter() - began)
            ended.wait(_THINK_S)
        return seconds

    with ThreadPoolExecutor(number) as users:
        jobs = [users.submit(user, one) for one in range(number)]
        try:
            posted: list[Posted] = post(stack.port, "/api/v1/uplinks", "application/cbor-seq", bodies, 1000 / _FRAMES)
        finally:
            ended.set()
        results.posts = [one.seconds for one in posted]
        results.with_users = [second for job in jobs for second in job.result()]


def posting_site(concentrators: int = 40) -> Site:
    """Return a site of some concentrators of the database, with the keys of their meters."""
    fleet_row = FleetKey.objects.get()
    secret = master_key.current().unwrap(bytes(fleet_row.wrapped), Purpose.FLEET_KEY, fleet_row.name.encode())
    posting = list(Concentrator.objects.filter(is_active=True).order_by("pk")[:concentrators])
    titles = [
        [
            bytes(title)
            for title in Meter.objects.filter(
                assignments__concentrator=one, assignments__valid_to=None, status="commissioned"
            ).values_list("system_title", flat=True)
        ]
        for one in posting
    ]
    keys = [[derived_device_key(secret, title, fleet.EPOCH) for title in block] for block in titles]
    meters = [fleet.derive(*pair) for pair in zip(titles, keys, strict=True)]
    with connection.cursor() as cursor:
        cursor.execute("SELECT max(interval_start) FROM concentrators_intervaltotal WHERE meters_counted > 900")
        newest = cursor.fetchone()[0] or IntervalTotal.objects.latest("interval_start").interval_start
    highest = InvocationCounter.objects.filter(key__system_title__in=titles[0]).order_by("-highest")[0].highest
    following = max(highest, million.HIGHEST) + 1
    start_s = int(newest.timestamp()) + fleet.INTERVAL_S - following * fleet.INTERVAL_S
    issued = [tokens.issue(one) for one in posting]
    connections.close_all()
    return Site("", Fleet(start_s, titles, meters), issued, following)
