"""Meters whose keys are agreed on with a public key of the table, and meters that are to enrol by certificate."""

from collections.abc import Callable
from io import StringIO
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey
from django.core.management import CommandError, call_command

from keyvault.audit.chain import Actor
from keyvault.device_keys import agreement_keys
from keyvault.device_keys.unwrapping import open_keys
from keyvault.models import AgreementKey, AuditRecord, AwaitedEnrolment, DeviceKey, DevicePublicKey
from keyvault.schemes import agreed
from meters.models import Meter

pytestmark = pytest.mark.django_db
HEADER = "system_title,serial_number,scheme,keys,public_key,interval_minutes,algorithm"
ONE, OTHER, THIRD = (bytes.fromhex(f"0024befffe00000{number}") for number in (1, 2, 3))
OFFICER = Actor("officer", "test")

Run = Callable[..., str]


@pytest.fixture
def run(tmp_path: Path) -> Run:
    def run(*lines: str, options: tuple[str, ...] = ()) -> str:
        path, out = tmp_path / "meters.csv", StringIO()
        path.write_text("\n".join([HEADER, *lines]))
        call_command("import_meters", str(path), *options, stdout=out)
        return out.getvalue()

    return run


@pytest.fixture
def refused(run: Run, capsys: pytest.CaptureFixture[str]) -> Run:
    """What is said of lines that are refused; nothing may have changed."""

    def refused(*lines: str, options: tuple[str, ...] = ()) -> str:
        models = (Meter, DeviceKey, DevicePublicKey, AwaitedEnrolment, AuditRecord)
        before = [model.objects.count() for model in models]
        with pytest.raises(CommandError, match=r"[Nn]othing was imported") as error:
            run(*lines, options=options)
        assert [model.objects.count() for model in models] == before
        return capsys.readouterr().err + str(error.value)

    return refused


@pytest.fixture
def version() -> AgreementKey:
    return agreement_keys.init("hes-1", OFFICER)


def line(title: bytes, public: str = "", keys: str = "", scheme: str = "", interval: str = "", alg: str = "") -> str:
    return f"{title.hex()},S{title[-1]},{scheme},{keys},{public},{interval},{alg}"


def pair() -> tuple[X25519PrivateKey, str]:
    private = X25519PrivateKey.generate()
    return private, private.public_key().public_bytes_raw().hex()


def test_both_sides_agree_on_the_first_keys(run: Run, version: AgreementKey) -> None:
    private, public = pair()
    assert "2 new" in run(line(ONE, public.upper(), scheme="session"), line(OTHER))
    keys = DeviceKey.objects.filter(system_title=ONE).order_by("epoch")
    assert list(keys.values_list("epoch", "algorithm", "source", "scheme", "state", "agreement_key")) == [
        (0, 10, "agreed", "ccm", "active", version.pk),
        (1, 10, "agreed", "session", "active", version.pk),
    ]
    head_end = bytes(version.public)
    z = agreed.agree(private, head_end)
    opened = {key.epoch: key.octets for key in open_keys([key.pk for key in keys])}
    for epoch in (0, 1):
        assert opened[epoch] == agreed.agreed_device_key(z, ONE, epoch, bytes.fromhex(public), head_end)
    sources = [record.subject.get("source") for record in AuditRecord.objects.filter(act="keys.provision")]
    assert sorted(map(str, sources)) == ["None", "agreed"]
    assert set(DeviceKey.objects.filter(system_title=OTHER).values_list("source", flat=True)) == {"stored"}


def test_z_is_computed_once_a_meter(run: Run, version: AgreementKey, monkeypatch: pytest.MonkeyPatch) -> None:
    agreed_on: list[bytes] = []

    def counting(private: X25519PrivateKey, public: bytes) -> bytes:
        agreed_on.append(public)
        return agreed.agree(private, public)

    monkeypatch.setattr("keyvault.device_keys.provisioning.agree", counting)
    publics = [pair()[1] for _ in range(2)]
    run(line(ONE, publics[0]), line(OTHER, publics[1]))
    assert sorted(public.hex() for public in agreed_on) == sorted(publics)


def test_the_same_file_again_changes_nothing(run: Run, version: AgreementKey) -> None:
    lines = line(ONE, pair()[1]), line(OTHER, keys="by certificate")
    run(*lines)
    before = list(DeviceKey.objects.values()), list(AwaitedEnrolment.objects.values())
    assert "0 new, 0 changed, 2 unchanged" in run(*lines)
    assert "0 new, 0 changed, 2 unchanged" in run(*lines, options=("--update",))
    assert (list(DeviceKey.objects.values()), list(AwaitedEnrolment.objects.values())) == before


def test_a_meter_that_is_to_enrol(run: Run) -> None:
    said = run(line(ONE, keys="By certificate", scheme="session", interval="15", alg="AES-CCM-16-64-256"))
    assert "0 given keys; 1 may enrol by certificate" in said
    awaited = AwaitedEnrolment.objects.get()
    assert (bytes(awaited.system_title), awaited.scheme, awaited.algorithm) == (ONE, "session", 11)
    assert Meter.objects.get().interval_minutes == 15
    assert not DeviceKey.objects.exists()
    assert AuditRecord.objects.filter(act="authority.allow").count() == 1


def test_meters_that_were_registered_without_keys(run: Run, refused: Run, version: AgreementKey) -> None:
    run(line(ONE), line(OTHER), options=("--no-keys",))
    lines = line(ONE, pair()[1]), line(OTHER, keys="by certificate")
    assert "meter S1 is registered without keys" in refused(*lines)
    assert "2 changed, 0 unchanged" in run(*lines, options=("--update",))
    assert (DeviceKey.objects.count(), AwaitedEnrolment.objects.count()) == (2, 1)


def test_what_is_refused(run: Run, refused: Run, version: AgreementKey) -> None:
    taken = pair()[1]
    run(line(ONE, taken), line(THIRD))
    head_end = bytes(version.public).hex()
    for wrong, said in (
        (line(OTHER, taken), f"its public key is that of {ONE.hex()}"),
        (line(OTHER, head_end), "the head-end's own"),
        (line(OTHER, "00" * 32), "small order"),
        (line(OTHER, "ff" * 32), "not in its one encoding"),
        (line(OTHER, taken[:-2]), "not 64 hex digits"),
        (line(OTHER, "x" * 64), "not 64 hex digits"),
        (line(OTHER, keys="by post"), "keys 'by post' is not empty or 'by certificate'"),
        (line(OTHER, pair()[1], keys="by certificate"), "the certificate brings it"),
        (line(ONE, pair()[1]), "meter S1 has other keys: an import changes no keys"),
        (line(THIRD, pair()[1]), "meter S3 has other keys: an import changes no keys"),
        (line(THIRD, keys="by certificate"), "manage.py authority allow lets it enrol"),
    ):
        assert said in refused(wrong)
    twice = pair()[1]
    assert f"public_key {twice} is already in line 2" in refused(
        line(OTHER, twice), line(bytes.fromhex("0024befffe000004"), twice)
    )
    for own in (line(OTHER, pair()[1]), line(OTHER, keys="by certificate")):
        assert "none are to be made" in refused(own, options=("--no-keys",))


@pytest.mark.parametrize("options", [(), ("--dry-run",)])
def test_without_an_agreement_key(refused: Run, options: tuple[str, ...]) -> None:
    assert "there is no agreement key: manage.py agreement_key init" in refused(line(ONE, pair()[1]), options=options)
