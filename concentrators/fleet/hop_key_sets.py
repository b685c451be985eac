"""The keys with which a concentrator checks hop tags: sealed once, and sent unchanged until one of them changes."""

from datetime import datetime

from django.db import transaction

from concentrators.fleet.assignments import holding
from concentrators.models import Concentrator, HopKeySet
from keyvault import journal
from keyvault.device_keys import hop_key_sealing


class NoKeyError(ValueError):
    """Nothing can be sealed for the concentrator; the message says what is missing."""


def sealed(concentrator_id: int, now: datetime) -> bytes:
    """Return all hop keys of the meters that are assigned to a concentrator now, sealed under its own key.

    The octets stay the same unless a key or an assignment changes. New ones are sealed under counters that were never
    used, and committed before this returns; concurrent requests get the same octets. NoKeyError, NotReplayedError or
    MasterKeyError if they cannot be sealed. A fixed number of queries.
    """
    with transaction.atomic(durable=True):
        journal.check_open()
        HopKeySet.objects.bulk_create([HopKeySet(concentrator_id=concentrator_id)], ignore_conflicts=True)
        kept = HopKeySet.objects.select_for_update().get(pk=concentrator_id)
        title = Concentrator.objects.values_list("system_title", flat=True).get(pk=concentrator_id)
        if title is None:
            raise NoKeyError("This concentrator has no system title, and no key of its own.")
        mine = holding(now).filter(concentrator=concentrator_id).values_list("meter__system_title", flat=True)
        found = hop_key_sealing.link_keys(bytes(title), list(map(bytes, mine)))
        if found is None:
            raise NoKeyError("This concentrator has no active key of its own.")
        if kept.octets is None or kept.digest is None or bytes(kept.digest) != found.digest:
            octets, are_all = hop_key_sealing.seal(found, now)
            if not octets:
                raise NoKeyError("The key of this concentrator does not open.")
            digest = found.digest if are_all else None  # sealed anew each time, until the row that does not open does
            kept.digest, kept.octets, kept.sealed_at = digest, octets, now
            kept.save()
    return bytes(kept.octets)
