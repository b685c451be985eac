"""The primary is lost with commits that no standby has: what a restore does after a backup is done after the promotion.

Readings, keys, tokens and commands came after the last commit that a standby got. The promoted one verifies nothing
until the key journal is replayed into it; then no key is forgotten, no nonce comes twice, and the feed has a new era.
"""

import random
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from functools import partial

import httpx
from django.db import connections

from concentrators.fleet import tokens
from concentrators.models import Uplink
from keyvault.device_keys.provisioning import NewKey, provision_stored
from tests.concentrators.obedient import Receiver
from tests.flows import site as sites
from tests.flows.feed_consumer import Consumer
from tests.flows.load import Poster, assert_nothing_lost, posting
from tests.flows.site import Site, frames_of, wait_verified
from tests.flows.stack import TRUSTED
from tests.flows.test_restore import Since, assert_frames_and_tokens, assert_nothing_is_used_again, go_on
from tests.rack import hosts
from tests.rack.hosts import Host
from tests.rack.matrix import REFUSED, At, Matrix, Measured, Say

NAME = "asynchronous promotion"
_COMPONENTS = ("standbys",)
_FEED_S = 300  # for the readings of all cells before


def run(matrix: Matrix, say: Say) -> Measured:
    """The whole of it, from a whole rack to a whole rack."""
    with _standbys_may_lag(matrix):
        found = _run(matrix, say)
    matrix.assert_over(*_COMPONENTS)  # only now: hosts do not have the setting, and say so until commits wait again
    return found


@contextmanager
def _standbys_may_lag(matrix: Matrix) -> Iterator[None]:
    rack = matrix.rack
    matrix.wait_whole()
    rack.configure({"synchronous_mode": False})
    rack.standby_may_lag = True
    rack.manage("grant_rights")
    rack.wait("no standby is synchronous", rack.is_asynchronous, 60)
    try:
        yield
    finally:
        rack.standby_may_lag = False
        rack.configure({"synchronous_mode": True})
        matrix.wait_whole()
        rack.manage("grant_rights")


def _run(matrix: Matrix, say: Say) -> Measured:
    rack, stack, found = matrix.rack, matrix.stack, Measured(NAME)
    matrix.operator.begin()
    site = sites.found(stack, 6)
    provision_stored([NewKey(device.title, 0) for device in site.devices])
    receivers = [Receiver.of(device) for device in site.devices]
    stolen = tokens.issue(site.concentrator, "stolen")
    wait_verified([site.posted(frames_of(site.devices, [0]))])
    poster = Poster(sites.found(stack, 3), REFUSED, 0.2)
    billing = Consumer(stack, rack.folder / "billing", random.Random(7))
    billing.catch_up(_FEED_S * rack.patience)
    before = rack.primary()
    rack.wait("both standbys have everything", lambda: _is_caught_up(matrix, before), 60)
    with hosts.frozen(before, of="walsender"):
        since = go_on(site, receivers, stolen)
        with posting([poster]):
            time.sleep(3)
        sites.wait_verified(poster.uplinks)
        billing.catch_up(_FEED_S * rack.patience)
        lost = len(poster.uplinks)
        began = time.monotonic()
        before.kill()
    say(f"{before.name} is lost with {lost} uplinks, {poster.intervals * 3} readings and the acts on keys since")
    try:
        connections.close_all()
        rack.wait("another host is primary", lambda: bool(rack.leaders()), 90)
        found.primary_s = time.monotonic() - began
        waiting = _assert_closed(matrix, site)
        found.untaken_s = time.monotonic() - began
        _replay(matrix)
        sites.sweep_until_verified(stack, [waiting], 60 * rack.patience)
        found.unverified_s = time.monotonic() - began
        matrix.assert_told(_COMPONENTS)
        _assert_nothing_forgotten(matrix, site, since, receivers, billing)
        _assert_counted_once(poster, rack.patience)
        found.frames = poster.intervals * 3
        rack.manage("audit", "verify", "--head", since.head, *matrix.journals())
    finally:
        billing.kill()
        ended = time.monotonic()
        before.start()
    matrix.wait_whole()
    found.whole_s = time.monotonic() - ended
    matrix.assert_clean()
    return found


def _is_caught_up(matrix: Matrix, primary: Host) -> bool:
    rows = matrix.rack.on(primary, "SELECT replay_lsn = pg_current_wal_lsn() FROM pg_stat_replication")
    return rows == [(True,), (True,)]


def _assert_closed(matrix: Matrix, site: Site) -> int:
    """The promoted database takes an uplink, and verifies none; no key changes, nothing leaves. Returns its id."""
    rack = matrix.rack
    for host in rack.webs:
        rack.wait(f"{host.name} is not ready", partial(matrix.is_unready, host), 60)
    rack.wait("doctor tells of the replay", lambda: matrix.finds("restored"), 60)
    beside = replace(site, stack=At(rack, rack.webs[0]))  # the proxy sends nothing to hosts that are not ready
    uplink = beside.posted(frames_of(site.devices[4:5], [0]))
    address = f"{beside.stack.base_url}/api/v1/commands"
    assert httpx.get(address, headers=site.headers, timeout=30, verify=TRUSTED).content == b""
    done = rack.manage("compromise_keys", "--device", site.devices[0].title.hex(), "--yes", check=False)
    assert done.returncode == 1, done.stdout
    assert Uplink.objects.get(pk=uplink).verified_at is None
    return uplink


def _replay(matrix: Matrix) -> None:
    done = matrix.rack.manage("restore", "--replay", *matrix.journals())
    assert "The feed begins era" in done.stdout, done.stdout
    for host in matrix.rack.webs:
        matrix.rack.wait(f"{host.name} is ready", partial(matrix.is_ready, host), 60)
    matrix.rack.wait("the proxy finds them ready", partial(matrix.is_ready, matrix.rack.field), 60)


def _assert_nothing_forgotten(
    matrix: Matrix, site: Site, since: Since, receivers: list[Receiver], billing: Consumer
) -> None:
    assert_frames_and_tokens(site, since)
    assert_nothing_is_used_again(site, since, receivers)
    billing.catch_up(_FEED_S * matrix.rack.patience)
    assert "discard the rows that you took at positions after" in billing.said()


def _assert_counted_once(poster: Poster, patience: float) -> None:
    """What the concentrator still held and posted again: nothing of it was there, and each frame is there once now."""
    poster.uplinks.clear()
    poster.post_again(0)
    assert_nothing_lost([poster], 120 * patience)
