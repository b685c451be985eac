"""What beat enqueues, and how often (seconds). The first runs come in this order (ami_headend.beat).

No task expires by the clock, since the clocks of two hosts may differ; instead, a full queue gets no more.
"""

from typing import Any


def _every(seconds: float, task: str) -> dict[str, Any]:
    return {"task": task, "schedule": seconds}


SCHEDULE: dict[str, dict[str, Any]] = {
    "evaluate-alerts": _every(30, "ami_headend.alerts.tasks.evaluate_alerts"),
    "sweep-uplinks": _every(5, "concentrators.tasks.sweep_uplinks"),
    "number-lots": _every(5, "concentrators.tasks.number_lots"),
    "sweep-feed-deliveries": _every(10, "concentrators.tasks.sweep_feed_deliveries"),
    "ship-security-events": _every(10, "ami_headend.siem.tasks.ship_security_events"),
    "sweep-deliveries": _every(15, "ami_headend.alerts.tasks.sweep_deliveries"),
    "sweep-master-key-rotation": _every(15, "keyvault.tasks.sweep_master_key_rotation"),
    "renew-kept-answers": _every(30, "ami_headend.tasks.renew_kept_answers"),
    "verify-waiting-again": _every(15, "concentrators.tasks.verify_waiting_again"),
    "count-uplinks": _every(30, "ami_headend.metrics.tasks.count_uplinks"),
    "expire-commands": _every(60, "concentrators.tasks.expire_commands"),
    "enter-interval-lengths": _every(60, "concentrators.tasks.enter_interval_lengths"),
    "step-rotation-waves": _every(60, "concentrators.tasks.step_rotation_waves"),
    "compare-reported-sums": _every(60, "concentrators.tasks.compare_reported_sums"),
    "count-read-days": _every(60, "concentrators.tasks.count_read_days"),
    "check-registers": _every(60, "concentrators.tasks.check_registers"),
    "collect-masked-totals": _every(60, "concentrators.tasks.collect_masked_totals"),
    # Last of the frequent ones, because it checks whether the others ran.
    "look-at-components": _every(60, "ami_headend.tasks.look_at_components"),
    "maintain-partitions": _every(3600, "meters.tasks.maintain_partitions"),
    "purge-uplinks": _every(3600, "concentrators.tasks.purge_uplinks"),
    "delete-old-rows": _every(3600, "concentrators.tasks.delete_old_rows"),
    "resend-gaps": _every(3600, "concentrators.tasks.resend_gaps"),
    "retire-keys": _every(3600, "concentrators.tasks.retire_keys"),
    "replace-worn-keys": _every(3600, "concentrators.tasks.replace_worn_keys"),
    "purge-alerts": _every(3600, "ami_headend.alerts.tasks.purge_alerts"),
    "archive-readings": _every(3600, "meters.tasks.archive_readings"),
    "request-reverification": _every(86_400, "concentrators.tasks.request_reverification"),
    "purge-sign-ins": _every(86_400, "ami_headend.signin.tasks.purge_sign_ins"),
    "verify-archive": _every(86_400, "meters.tasks.verify_archive"),
    "purge-accesses": _every(86_400, "meters.tasks.purge_accesses"),
}
