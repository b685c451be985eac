"""Verifies posted uplinks: together in one transaction, and each alone if that fails."""

import logging
from collections.abc import Sequence

from concentrators.ingest import quarantine, uplink_state
from concentrators.ingest.decisions import Verdicts
from concentrators.ingest.transaction_retry import ContentionError, TransientError, attempt
from concentrators.ingest.worker import PROCESS, Worker
from keyvault.replay_window_store import Care

logger = logging.getLogger(__name__)


def verify(uplink_id: int, worker: Worker = PROCESS) -> Verdicts | None:
    """Verify one uplink; None if another worker has it, or had it, or it failed. See ``verify_together``."""
    return verify_together([uplink_id], worker).get(uplink_id)


def verify_together(uplink_ids: Sequence[int], worker: Worker = PROCESS) -> dict[int, Verdicts]:
    """Verify uplinks in one transaction; those that another worker has, or had, are left out.

    TransientError if the database or the master key has a problem. If it fails otherwise, each uplink is verified
    alone, and the failure is counted for the one that fails again. After UPLINK_SPLIT_AFTER failures an uplink goes
    into quarantine, which finds the frame at fault.
    """
    suspects: list[int] = []

    def work(care: Care) -> dict[int, Verdicts]:
        posted = uplink_state.take(uplink_ids)
        suspects[:] = [one.delivery.uplink_id for one in posted if one.is_suspect]
        sound = [(one.delivery, one.frames) for one in posted if not one.is_suspect]
        if not sound:
            return {}
        verdicts = worker.judge(sound, care)
        by_uplink = {delivery.uplink_id: each for (delivery, _), each in zip(sound, verdicts, strict=True)}
        uplink_state.finish(by_uplink)
        return by_uplink

    try:
        done = attempt(f"uplinks {uplink_ids}", work, worker.foresight.care(), worker.foresight)
    except Exception as error:
        if isinstance(error, TransientError) and not isinstance(error, ContentionError):
            logger.warning("%s: tried again later", str(error).partition("\n")[0])
            raise
        logger.exception("uplinks %s failed to verify", uplink_ids)
        if len(uplink_ids) == 1:
            uplink_state.note_failed(uplink_ids[0], error)
            return {}
        done = {}
        for one in uplink_ids:
            done.update(verify_together([one], worker))
        return done
    for uplink_id in suspects:
        if verdicts := quarantine.verify(uplink_id, worker):
            done[uplink_id] = verdicts
    return done
