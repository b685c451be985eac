"""The queues, each with worker processes of its own. Imports nothing, because settings import it."""

UPLINKS = "uplinks"  # verification, and the sweep for lost tasks
ALERTS = "alerts"  # work that must be on time: rules, messages, the health of components, counts
DELIVERIES = "deliveries"  # sending the feed to receivers, each of which may hang
BACKGROUND = "background"  # everything else, which may take its time
QUEUES = (UPLINKS, ALERTS, DELIVERIES, BACKGROUND)

ROUTES = {
    "concentrators.tasks.verify_backlog": {"queue": UPLINKS},
    "concentrators.tasks.sweep_uplinks": {"queue": UPLINKS},
    "concentrators.tasks.deliver_feed": {"queue": DELIVERIES},
    "concentrators.tasks.sweep_feed_deliveries": {"queue": DELIVERIES},  # with what it sends: beat fills no queue
    "ami_headend.alerts.tasks.*": {"queue": ALERTS},
    "ami_headend.tasks.look_at_components": {"queue": ALERTS},
    "ami_headend.metrics.tasks.count_uplinks": {"queue": ALERTS},
    "ami_headend.siem.tasks.ship_security_events": {"queue": ALERTS},
}
