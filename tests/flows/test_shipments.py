"""Keys that come while their meters' frames do: over HTTP, real workers, and the command as a process of its own."""

import random
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from threading import Event

from concentrators.models import IntegrityFailure, Uplink
from keyvault.models import DeviceKey, InvocationCounter
from tests.flows import site as sites
from tests.flows.site import assert_one_verdict_each, assert_readings, frames_of, readings_expected, wait_verified
from tests.flows.stack import Stack
from tests.keyvault.shipping import line, shipment_file, transport_file


def test_frames_posted_around_an_import_count_once(live_stack: Stack, tmp_path: Path) -> None:
    site = sites.found(live_stack, 30)
    InvocationCounter.objects.all().delete()
    DeviceKey.objects.all().delete()  # only the meters have their keys now
    chance = random.Random(41)
    frames = frames_of(site.devices, range(30))
    early = [site.posted(chance.sample(frames, 60)) for _ in range(20)]
    wait_verified(early)
    assert set(Uplink.objects.values_list("waiting", flat=True)) == {60}
    assert IntegrityFailure.objects.count() == 1000  # of 1200: the cap

    halves = [
        shipment_file(tmp_path, [line(device.title, key=device.key) for device in devices])
        for devices in (site.devices[:15], site.devices[15:])
    ]
    key_file = transport_file(tmp_path)
    imported = Event()

    def feed() -> list[int]:
        ids: list[int] = []
        while not imported.is_set() and len(ids) < 200:
            ids.append(site.posted(chance.sample(frames, 60)))
        return ids

    def take(path: Path) -> None:
        done = live_stack.manage("import_keys", str(path), "--transport-key", str(key_file))
        assert done.returncode == 0, done.stdout + done.stderr
        assert "15 active keys" in done.stdout

    with ThreadPoolExecutor(3) as pool:
        feeding = pool.submit(feed)
        try:
            list(pool.map(take, halves))
        finally:
            imported.set()
        meanwhile = feeding.result()
    last = site.posted(frames)
    ids = [*early, *meanwhile, last]
    wait_verified(ids)
    posted = 60 * (len(ids) - 1) + len(frames)
    assert not Uplink.objects.filter(waiting__gt=0).exists()
    assert assert_one_verdict_each(ids) == {"accepted": len(frames), "duplicate": posted - len(frames)}
    assert sites.tallied(site.concentrator) == {}
    assert_readings(site.devices, readings_expected(site.devices, range(30)))
    assert live_stack.manage("verify_again", "--all-waiting").stdout.startswith("0 waiting frames of 0 uplinks")
