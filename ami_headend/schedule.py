"""What beat enqueues, and how often (seconds). What expires is worth nothing once its next turn has come."""

from typing import Any

SCHEDULE: dict[str, dict[str, Any]] = {
    "sweep-uplinks": {"task": "concentrators.tasks.sweep_uplinks", "schedule": 15.0},
    "sweep-master-key-rotation": {"task": "keyvault.tasks.sweep_master_key_rotation", "schedule": 15.0},
    "purge-uplinks": {"task": "concentrators.tasks.purge_uplinks", "schedule": 3600.0},
    "delete-old-rows": {"task": "concentrators.tasks.delete_old_rows", "schedule": 3600.0},
    "expire-commands": {"task": "concentrators.tasks.expire_commands", "schedule": 60.0},
    "enter-interval-lengths": {"task": "concentrators.tasks.enter_interval_lengths", "schedule": 60.0},
    "step-rotation-waves": {"task": "concentrators.tasks.step_rotation_waves", "schedule": 60.0},
    "resend-gaps": {"task": "concentrators.tasks.resend_gaps", "schedule": 3600.0},
    "retire-keys": {"task": "concentrators.tasks.retire_keys", "schedule": 3600.0},
    "replace-worn-keys": {"task": "concentrators.tasks.replace_worn_keys", "schedule": 3600.0},
    "look-at-components": {
        "task": "ami_headend.tasks.look_at_components",
        "schedule": 60.0,
        "options": {"expires": 60},
    },
    "renew-kept-answers": {
        "task": "ami_headend.tasks.renew_kept_answers",
        "schedule": 30.0,
        "options": {"expires": 30},
    },
    "evaluate-alerts": {
        "task": "ami_headend.alerts.tasks.evaluate_alerts",
        "schedule": 30.0,
        "options": {"expires": 60},
    },
    "sweep-deliveries": {
        "task": "ami_headend.alerts.tasks.sweep_deliveries",
        "schedule": 15.0,
        "options": {"expires": 60},
    },
    "count-uplinks": {"task": "ami_headend.metrics.tasks.count_uplinks", "schedule": 30.0, "options": {"expires": 60}},
    "take-snapshots": {
        "task": "ami_headend.metrics.tasks.take_snapshots",
        "schedule": 60.0,
        "options": {"expires": 60},
    },
    "purge-alerts": {"task": "ami_headend.alerts.tasks.purge_alerts", "schedule": 3600.0},
    "purge-sign-ins": {"task": "ami_headend.signin.tasks.purge_sign_ins", "schedule": 86_400.0},
    "maintain-partitions": {"task": "meters.tasks.maintain_partitions", "schedule": 3600.0},
}
