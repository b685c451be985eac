"""manage.py mask_authority: who knows the masks of meters, and tells their sums alone."""

import logging
import os
import signal
import socket
import sys
import threading
import time
from argparse import ArgumentTypeError
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from django.core.management.base import CommandError, CommandParser
from waitress.server import create_server

from ami_headend.core.commands import DomainCommand, time_of
from ami_headend.core.text import counted
from keyvault.enrolment.certificates import (
    CertificateError,
    check_authority_key,
    kid_text,
    parse_certificate,
    parse_revocation,
    verify,
)
from keyvault.schemes.agreed import AgreementError, check_public
from mask_authority import keys
from mask_authority.keys import AuthorityStateError
from mask_authority.service import BODY_MAX, Authority, application
from mask_authority.state import Certifier, State

AUDIENCE = "mask"
_KEEP_DAYS = 1200
_HOUR_S = 3600
_MOST = 1_000_000
logger = logging.getLogger("mask_authority")


class Command(DomainCommand):
    help = (
        "Be a mask authority: share a mask key with each meter, and answer the sums of masks of ten meters and more. "
        "It needs nothing of the head-end: neither its settings, its database nor its secrets. Let somebody else than "
        "the head-end's owner run it."
    )
    examples = (
        "examples:\n"
        "  manage.py mask_authority init masks/ --name 'Consumer council' --witness /mnt/other/consumer.witness\n"
        "  manage.py mask_authority pin_certifier masks/ --kid lab-1 --issuer 'Our laboratory' --public 4fd0..c4\n"
        "  manage.py mask_authority pin_requester masks/ --name 'City works' --public 0b1e..77\n"
        "  manage.py mask_authority take masks/ certificates/*.cwt     meters whose certificates have aud 'mask'\n"
        "  manage.py mask_authority revoke masks/ lost.cose            no meter is taken by that certificate any more\n"
        "  manage.py mask_authority serve masks/ --listen 127.0.0.1:8100\n"
        "  manage.py mask_authority list masks/\n"
        "  manage.py mask_authority log masks/ --last 20\n"
        "  manage.py mask_authority restored masks/                    after the state came from a backup\n\n"
        "exit status: 0 done; 1 it could not be done."
    )
    refusals = (AuthorityStateError, CertificateError, AgreementError)

    def add_arguments(self, parser: CommandParser) -> None:
        actions = parser.add_subparsers(dest="action", required=True, metavar="ACTION")

        def action(name: str, text: str) -> Any:
            one = actions.add_parser(name, help=text)
            one.add_argument("folder", type=Path, help="the authority's folder")
            return one

        init = action("init", "make keys and state; an authority answers for starts from then on")
        init.add_argument("--name", required=True, help="what people call it")
        init.add_argument("--witness", type=Path, required=True, help="a file on another disk, not in its backup")
        init.add_argument(
            "--answers-from", type=time_of, metavar="TIME", help="earlier, for values that were sent before (now)"
        )
        certifier = action("pin_certifier", "take certificates of meters from this authority")
        certifier.add_argument("--kid", required=True, metavar="TEXT", help="how certificates name it")
        certifier.add_argument("--issuer", required=True, metavar="TEXT", help="what certificates call iss")
        certifier.add_argument("--public", required=True, metavar="HEX", help="its Ed25519 public key, 64 hex digits")
        requester = action("pin_requester", "answer requests of this head-end")
        requester.add_argument("--name", required=True, help="what people call it")
        requester.add_argument("--public", required=True, metavar="HEX", help="its Ed25519 public key, 64 hex digits")
        take = action("take", "take meters by certificates; a meter's mask key is for good")
        take.add_argument("files", type=Path, nargs="+", metavar="FILE", help="a certificate")
        revoke = action("revoke", "take revocations of certificates; meters that were taken stay")
        revoke.add_argument("files", type=Path, nargs="+", metavar="FILE", help="a revocation of a pinned authority")
        serve = action("serve", "answer requests over HTTP; put TLS before it")
        serve.add_argument("--listen", default="127.0.0.1:8100", metavar="HOST:PORT", help="(127.0.0.1:8100)")
        serve.add_argument("--keep-days", type=_number, default=_KEEP_DAYS, metavar="N", help=f"of sets ({_KEEP_DAYS})")
        serve.add_argument("--until-eof", action="store_true", help="end when standard input ends, with who started it")
        action("list", "its public keys, who is pinned, how many meters and sets").add_argument(
            "--json", action="store_true", help="for programs"
        )
        action("log", "what was asked, and what became of it").add_argument(
            "--last", type=_number, default=50, metavar="N", help="the newest N entries (50)"
        )
        action("restored", "say that the state came from a backup: it answers for starts from now on alone")

    def handle(self, *args: Any, action: str, folder: Path, **options: Any) -> None:
        acts: dict[str, Callable[..., None]] = {
            "init": self.init,
            "pin_certifier": self.pin_certifier,
            "pin_requester": self.pin_requester,
            "take": self.take,
            "revoke": self.revoke,
            "serve": self.serve,
            "list": self.list,
            "log": self.log,
            "restored": self.restored,
        }
        acts[action](folder, **options)

    def init(self, folder: Path, *, name: str, witness: Path, answers_from: datetime | None, **options: Any) -> None:
        """New keys have answered nothing yet, so any time may be the first that they answer for."""
        if witness.resolve().is_relative_to(folder.resolve()):
            raise CommandError("--witness lies in the authority's folder: it would be restored with it. Name another.")
        if witness.exists():
            raise CommandError(f"{witness} exists already: it is another authority's witness. Nothing was made.")
        made = keys.make(folder, name, witness)
        began_s = _now() if answers_from is None else int(answers_from.timestamp())
        State.make(folder, made.witness, began_s).close()
        self._tell(made)

    def _tell(self, made: keys.AuthorityKeys) -> None:
        self.stdout.write(f"{made.name}\n  X25519, for meters in the factory: {made.mask_public.hex()}")
        self.stdout.write(f"  Ed25519, for head-ends to pin:     {made.sign_public.hex()}")

    def pin_certifier(self, folder: Path, *, kid: str, issuer: str, public: str, **options: Any) -> None:
        octets = _octets(public)
        check_authority_key(octets)
        _state(folder).pin_certifier(Certifier(kid.encode(), issuer, octets), _now())
        self.stdout.write(f"Pinned {issuer}: meters are taken by its certificates with aud {AUDIENCE!r}.")

    def pin_requester(self, folder: Path, *, name: str, public: str, **options: Any) -> None:
        octets = _octets(public)
        check_authority_key(octets)
        _state(folder).pin_requester(octets, name, _now())
        self.stdout.write(f"Pinned {name}: its requests are answered.")

    def take(self, folder: Path, *, files: list[Path], **options: Any) -> None:
        """Take meters, each whole or not; the first certificate that is refused ends it."""
        state, taken = _state(folder), 0
        for file in files:
            try:
                octets = file.read_bytes()
                taken += _take(state, octets, _now())
            except OSError as error:
                raise CommandError(
                    f"cannot read {file}: {error.strerror}. {counted(taken, 'meter was', 'meters were')} taken."
                ) from None
            except self.refusals as error:
                raise CommandError(
                    f"{file}: {error}. {counted(taken, 'meter was', 'meters were')} taken before it."
                ) from None
        self.stdout.write(
            f"{counted(taken, 'meter was', 'meters were')} taken; {len(files) - taken} had been taken already."
        )

    def revoke(self, folder: Path, *, files: list[Path], **options: Any) -> None:
        """Take revocations, each whole or not; the first that is refused ends it."""
        state = _state(folder)
        for done, file in enumerate(files):
            try:
                kid, cti, is_new = _revoke(state, file.read_bytes(), _now())
            except OSError as error:
                raise CommandError(
                    f"cannot read {file}: {error.strerror}. "
                    f"{counted(done, 'revocation was', 'revocations were')} taken."
                ) from None
            except self.refusals as error:
                raise CommandError(
                    f"{file}: {error}. {counted(done, 'revocation was', 'revocations were')} taken before it."
                ) from None
            self.stdout.write(f"Certificate {cti.hex()} is revoked{'' if is_new else ' already'}.")
            for title in _taken_by(state, kid, cti):
                self.stdout.write(
                    f"Meter {title.hex()} was taken by it and stays, since others answer for it: have the head-end "
                    "put it into another mask group (mask_authorities group)."
                )

    def serve(self, folder: Path, *, listen: str, keep_days: int, until_eof: bool, **options: Any) -> None:
        own = keys.load(folder)
        state = _state(folder)
        with state.only_one():
            state.check_whole()
            server = create_server(
                application(Authority(own, state)),
                sockets=[_listening(listen)],
                threads=4,
                max_request_body_size=BODY_MAX,
                channel_timeout=30,
                ident=None,
            )
            stop = threading.Event()
            for number in (signal.SIGTERM, signal.SIGINT):
                signal.signal(number, lambda *_: _close(server, stop))
            if until_eof:
                threading.Thread(target=_end_with_input, daemon=True).start()
            threading.Thread(target=_forget, args=(state, keep_days, stop), daemon=True).start()
            self.stdout.write(f"{own.name} answers at http://{listen}")
            self.stdout.flush()
            server.run()
        state.close()

    def list(self, folder: Path, *, json: bool, **options: Any) -> None:
        own, state = keys.load(folder), _state(folder)
        began = datetime.fromtimestamp(state.began_s, UTC)
        if json:
            self.write_json(
                {
                    "name": own.name,
                    "mask_public": own.mask_public.hex(),
                    "sign_public": own.sign_public.hex(),
                    "answers_from": began,
                    "certifiers": {kid_text(kid): one.public.hex() for kid, one in state.certifiers.items()},
                    "requesters": {name: public.hex() for public, name in state.requesters.items()},
                    **state.counts,
                }
            )
            return
        self._tell(own)
        self.stdout.write(f"It answers for starts from {began:%Y-%m-%d %H:%M} UTC on.")
        for kid, certifier in state.certifiers.items():
            self.stdout.write(f"certifier {certifier.issuer}: kid {kid_text(kid)}, public {certifier.public.hex()}")
        counts = state.counts
        for public, name in state.requesters.items():
            self.stdout.write(f"requester {name}: public {public.hex()}")
        self.stdout.write(
            f"{counted(counts['meters'], 'meter')}, {counted(counts['revoked'], 'certificate')} revoked, "
            f"{counted(counts['sets'], 'set')} answered."
        )

    def log(self, folder: Path, *, last: int, **options: Any) -> None:
        state = _state(folder)
        names = state.requesters
        for at_s, requester, said, outcome in reversed(state.log(last)):
            name = names.get(requester, requester.hex())
            self.stdout.write(f"{datetime.fromtimestamp(at_s, UTC):%Y-%m-%d %H:%M:%S} {name}: {said}: {outcome}")

    def restored(self, folder: Path, **options: Any) -> None:
        state = _state(folder)
        with state.only_one():
            began = datetime.fromtimestamp(state.begin_anew(_now()), UTC)
        self.stdout.write(f"The state answers for starts from {began:%Y-%m-%d %H:%M:%S} UTC on, and for none before.")


def _state(folder: Path) -> State:
    return State(folder, keys.load(folder).witness)


def _now() -> int:
    return int(time.time())


def _take(state: State, octets: bytes, now_s: int) -> bool:
    """Take a meter by its certificate; False where it was taken already. CertificateError, AuthorityStateError."""
    certificate = parse_certificate(octets)
    certifier = state.certifiers.get(certificate.signed.kid)
    if certifier is None:
        raise CertificateError(f"no authority {kid_text(certificate.signed.kid)} is pinned: pin_certifier")
    verify(certificate.signed, certifier.public)
    if certificate.issuer != certifier.issuer:
        raise CertificateError(f"its iss is {certificate.issuer!r}, and the authority's {certifier.issuer!r}")
    if certificate.audience != AUDIENCE:
        raise CertificateError(f"its aud is {certificate.audience!r}: it vouches for no mask key, whose aud is 'mask'")
    if not certificate.not_before_s <= now_s < certificate.expires_s:
        raise CertificateError("its time has not come, or is over")
    if state.is_revoked(*certificate.number):
        raise CertificateError("its authority revoked it")
    check_public(certificate.public)
    return state.take(certificate.system_title, certificate.public, octets, now_s)


def _number(text: str) -> int:
    """A number of the command line, from 1 to a million."""
    if not text.isascii() or not text.isdigit() or not 1 <= int(text[:8]) <= _MOST:
        raise ArgumentTypeError(f"{text[:20]!r} is no number from 1 to {_MOST:,}")
    return int(text)


def _revoke(state: State, octets: bytes, now_s: int) -> tuple[bytes, bytes, bool]:
    """Take a revocation; its kid and cti, and whether it is new. CertificateError, AuthorityStateError."""
    revocation = parse_revocation(octets)
    kid = revocation.signed.kid
    certifier = state.certifiers.get(kid)
    if certifier is None:
        raise CertificateError(f"no authority {kid_text(kid)} is pinned: pin_certifier")
    verify(revocation.signed, certifier.public)
    return kid, revocation.cti, state.revoke(kid, revocation.cti, octets, now_s)


def _taken_by(state: State, kid: bytes, cti: bytes) -> Iterator[bytes]:
    """The title of the meter that was taken by a certificate, if one was."""
    return (title for title, octets in state.certificates if parse_certificate(octets).number == (kid, cti))


def _octets(text: str) -> bytes:
    try:
        return bytes.fromhex(text)
    except ValueError:
        raise CommandError("--public is not hexadecimal. Nothing was done.") from None


def _listening(address: str) -> socket.socket:
    host, _, port = address.rpartition(":")
    try:
        return socket.create_server((host, int(port)))
    except (OSError, ValueError, OverflowError) as error:
        raise CommandError(f"cannot listen on {address}: {error}") from None


def _end_with_input() -> None:
    sys.stdin.buffer.read()
    os.kill(os.getpid(), signal.SIGTERM)


def _close(server: Any, stop: threading.Event) -> None:
    """End in good order: what is being answered is answered."""
    stop.set()
    server.close()
    raise SystemExit(0)


def _forget(state: State, keep_days: int, stop: threading.Event) -> None:
    """Once an hour let go of what is older than is kept."""
    while True:
        gone = state.forget_before(_now() - keep_days * 86_400)
        if gone:
            logger.info("%d sets were older than %d days: nothing is answered for their time", gone, keep_days)
        if stop.wait(_HOUR_S):
            return
