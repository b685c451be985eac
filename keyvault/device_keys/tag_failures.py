"""Counts frames with a bad tag by the key that they name. Anyone can send them: they raise an alarm, no more."""

import logging
from collections import Counter
from functools import partial

from django.db import transaction

from ami_headend.core.sql import fetch_rows, int_array
from keyvault.cose.forms import KID_OCTETS
from keyvault.opening import Opening
from keyvault.refusals import Refusal

logger = logging.getLogger(__name__)

ALARM_AT = 2**13  # forgeries against one key


def count(opening: Opening) -> None:
    """Count the bad tags of uplinks by key, in the current transaction; one query, none where there are no bad tags.

    Writes one warning to the log when a key's number passes ALARM_AT.
    """
    bad = Counter(
        opening.keys[refused.kid].id
        for uplink in opening.uplinks
        for refused in uplink.refused
        if refused.reason is Refusal.TAG_INVALID and refused.kid in opening.keys  # of an enrolment there is none yet
    )
    if not bad:
        return
    ids = sorted(bad)
    rows = fetch_rows(
        """INSERT INTO keyvault_tagfailures AS t (key_id, failures)
           SELECT key_id, failures FROM unnest(%s::int[], %s::bigint[]) AS n(key_id, failures)
           ON CONFLICT (key_id) DO UPDATE SET failures = t.failures + excluded.failures
           RETURNING key_id, failures""",
        int_array(ids),
        int_array(bad[key_id] for key_id in ids),
    )
    kids = {key.id: kid for kid, key in opening.keys.items()}
    for key_id, failures in rows:
        if failures >= ALARM_AT > failures - bad[key_id]:
            transaction.on_commit(partial(_alarm, kids[key_id], failures))


def _alarm(kid: bytes, failures: int) -> None:
    title, epoch = kid[:8].hex(), int.from_bytes(kid[8:KID_OCTETS], "big")
    logger.warning("ALARM: %d frames with a bad tag name device %s, epoch %d: forged", failures, title, epoch)
