"""Checks of what others run, and of devices: proxies before the head-end, mask authorities beside it, odd meters.

Each gives whether all is well, what was found, and what to do if not.
"""

from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta

from django.conf import settings
from django.utils import timezone

from ami_headend.alerts.models import Delivery
from ami_headend.core import clock
from ami_headend.core.sql import select
from ami_headend.core.text import counted, some
from ami_headend.siem import pending
from ami_headend.signin import provider, unknown_clients
from ami_headend.signin.provider import ProviderError
from concentrators.fleet import laboratory
from concentrators.models import ReadDeadline
from concentrators.totals import mask_client
from concentrators.totals.mask_client import NoAnswerError
from keyvault import journal
from keyvault.masking import pinned
from keyvault.masking.pinned import PinnedMaskAuthority
from keyvault.models import MeterIdentity

ANSWER_S = 3.0
_AT_ONCE = 8
_NAMED = 5
_MESSAGE_LATE = timedelta(hours=1)
_SIEM_LATE = timedelta(minutes=5)
_MAY_LAG = {  # by whether it is in force, where the environment says the contrary
    False: "STANDBY_MAY_LAG=1 is set, but not in force: a promoted standby that lacks acts on keys would be used so",
    True: "STANDBY_MAY_LAG is not set, but in force: each promotion stops verification until the journal is replayed",
}


def client_addresses() -> tuple[bool, str, str]:
    """Check that the proxies report where sign-ins come from; otherwise failures count against nobody."""
    found = unknown_clients.found_lately()
    if found is None:
        return True, "known for every sign-in of the last day", ""
    peer, text = found
    to_do = (
        "Let it append the client's address to X-Forwarded-For, and set PROXY_COUNT to the number of proxies in front."
    )
    return False, f"{peer} wrote {text} where a client's address belongs", to_do


def laboratory_meters() -> tuple[bool, str, str]:
    """Check that no meter of a production deployment is marked as a laboratory's, which would keep alerts silent."""
    found = laboratory.silenced_in_production(timezone.now())
    if not found:
        return True, "none in production", ""
    named = some([f"{meter} at {concentrator}" for meter, concentrator in found], _NAMED)
    to_do = "Their failures raise no alerts. Make each an ordinary meter: manage.py bench_meter TITLE --end."
    return False, f"in production: {named}", to_do


def deadlines() -> tuple[bool, str, str]:
    """Say by which zone the days of deadlines begin, and whether that is only the default."""
    active = list(ReadDeadline.objects.filter(is_active=True).order_by("name"))
    if not active:
        return True, "none is active: nothing says whether readings came in time", ""
    if unset := [one.name for one in active if one.is_zone_unset]:
        said = ", ".join(unset[:_NAMED])
        return True, f"{said}: days of UTC, because no zone was set (Etc/UTC if UTC is meant)", ""
    return True, ", ".join(f"{one.name} ({one.zone})" for one in active[:_NAMED]), ""


def identities() -> tuple[bool, str, str]:
    """Check that the identities of signing meters count, those of earlier releases, too."""
    without = MeterIdentity.objects.filter(mac=b"").count()
    if not without:
        return True, "each was registered by an act", ""
    to_do = "After the upgrade from a release before rows had a MAC, run manage.py meter_identity confirm once."
    return False, f"{without} count for nothing: nobody's act registered them", to_do


def sign_in_provider() -> tuple[bool, str, str]:
    """Check that the OpenID provider describes itself where it should, and as this head-end needs it."""
    if not provider.is_configured():
        return True, "none: people sign in with passwords", ""
    try:
        return True, provider.check(), ""
    except ProviderError as error:
        to_do = f"Look at {provider.discovery_url()}: nobody can sign in there until it answers."
        return False, f"{settings.OIDC_ISSUER}: {error}", to_do


def siem() -> tuple[bool, str, str]:
    """Check that security events reach the SIEM, if there is one."""
    if not settings.SIEM_URL:
        return True, "none: security events stay here", ""
    found = pending.backlog()
    late = found.oldest_at is not None and clock.has_rested(found.oldest_at, _SIEM_LATE, timezone.now())
    waiting = (
        f"{counted(found.waiting, 'event waits', 'events wait')}, {found.shipping.sent} sent to {settings.SIEM_URL}"
    )
    if found.shipping.last_error:
        return (
            False,
            f"{waiting}; {found.shipping.last_error}",
            "See docs/operations/siem.md. Nothing is lost meanwhile.",
        )
    if late:
        return False, waiting, "Check that celery beat and a worker of the queue alerts run."
    return True, waiting, ""


def standbys() -> tuple[bool, str, str]:
    """Check that as many standbys follow the primary as there should be, and that commits wait for one of them."""
    if (closes := journal.closes_on_promotion()) is not None and closes != settings.STANDBY_MAY_LAG:
        return False, _MAY_LAG[closes], "Run manage.py grant_rights, with OWNER_DATABASE_URL and this environment."
    wanted = settings.DATABASE_STANDBYS
    if not wanted:
        return True, "none expected", ""
    following, waited_for = select(
        "SELECT (SELECT count(*) FROM pg_stat_replication), current_setting('synchronous_standby_names')"
    )[0]
    if following < wanted:
        to_do = "Start it (patronictl list): if the primary is lost meanwhile, another one may lack what it has."
        return False, f"{following} of {wanted} follow the primary", to_do
    if not waited_for and not settings.STANDBY_MAY_LAG:
        to_do = "Set Patroni's synchronous_mode, or STANDBY_MAY_LAG=1 (docs/operations/hosts.md)."
        return False, "commits wait for none of them: what is acknowledged may be lost with the primary", to_do
    return True, f"{following} follow the primary{', and commits wait for one' if waited_for else ''}", ""


def messages() -> tuple[bool, str, str]:
    """Check that receivers take the messages of alerts and daily mails, so that silence means that all is well."""
    waiting = Delivery.objects.filter(delivered_at=None, given_up_at=None)
    late = waiting.filter(created_at__lt=timezone.now() - _MESSAGE_LATE).order_by("-attempts", "created_at")
    first = late.first()
    if first is None:
        return True, "every message was taken, or is on its way", ""
    found = f"{late.count()} wait, one to {first.channel_name} since {first.created_at:%Y-%m-%d %H:%M} UTC"
    to_do = "Repair the receiver or EMAIL_URL, and send a test on the page Channels. All of them are tried again."
    return False, f"{found}: {first.last_error or 'nobody has sent it'}", to_do


def mask_authorities() -> tuple[bool, str, str]:
    """Check that every mask authority that is asked can be reached; it is asked for nothing."""
    asked = pinned.asked()
    if not asked:
        return True, "none is pinned", ""
    with ThreadPoolExecutor(_AT_ONCE) as threads:
        away = [text for text in threads.map(_why_away, asked) if text]
    if not away:
        return True, f"{len(asked)} answer", ""
    to_do = "See docs/operations/masked.md. Masked totals wait until all authorities of their group answer."
    return False, some(away, _NAMED, "; "), to_do


def _why_away(authority: PinnedMaskAuthority) -> str:
    try:
        mask_client.reach(authority.url, ANSWER_S)
    except NoAnswerError as error:
        return f"{authority.name} at {authority.url}: {error}"
    return ""
