"""Celery: the broker, the queues, the limits of tasks and the schedule."""

from kombu import Queue

from ami_headend import queues
from ami_headend.core import broker_url, sd_notify, tasklimits
from ami_headend.schedule import SCHEDULE
from ami_headend.settings.alerts import ALERT_EVALUATE_EVERY_S
from ami_headend.settings.databases import REDIS_URL

CELERY_BROKER_URL = broker_url.celery_broker_url(REDIS_URL)
CELERY_TASK_IGNORE_RESULT = True
CELERY_TASK_SERIALIZER = "json"
CELERY_ACCEPT_CONTENT = ["json"]
CELERY_WORKER_PREFETCH_MULTIPLIER = 4
CELERY_WORKER_HIJACK_ROOT_LOGGER = False
# If Redis is away or answers with an error (read-only, full, loading, unable to save), try again until it is well.
CELERY_BROKER_CONNECTION_RETRY_ON_STARTUP = True
CELERY_BROKER_CONNECTION_MAX_RETRIES = None
CELERY_BROKER_CHANNEL_ERROR_RETRY = True
# max_retries: publishing gives up at once (kombu would try for 6 s); the octets are stored, and the sweep enqueues
# them.
CELERY_BROKER_TRANSPORT_OPTIONS = {
    "socket_timeout": 5,
    "socket_connect_timeout": 2,
    "max_retries": 0,
    # Redis does not track which tasks workers hold; the sweep does that job. With tracking, a worker that holds tasks
    # ends for good when Redis goes away (kombu 5.7: "Unrecoverable error" while it returns them).
    "ack_emulation": False,
}
# Celery's Django fixup closes the connection, and every prepared plan with it, after this many tasks, or after each
# task if this is 0, whatever CONN_MAX_AGE says. A broken connection is opened again all the same.
CELERY_DB_REUSE_MAX = 1_000_000
CELERY_TASK_QUEUES = [Queue(name) for name in queues.QUEUES]
CELERY_TASK_DEFAULT_QUEUE = queues.BACKGROUND
CELERY_TASK_ROUTES = queues.ROUTES
CELERY_TASK_SOFT_TIME_LIMIT = tasklimits.SOFT_TIME_LIMIT_S
CELERY_TASK_TIME_LIMIT = tasklimits.TIME_LIMIT_S
# Redis carries nothing but ids of rows. With remote control, anybody who can write to it could stop workers or read
# their settings, and an answer through Redis would not show whether a worker reaches the database.
CELERY_WORKER_ENABLE_REMOTE_CONTROL = False
CELERY_BEAT_ENABLE_REMOTE_CONTROL = False
CELERY_WORKER_SEND_TASK_EVENTS = False
# The main loops send signs of life every few seconds (ami_headend.core.sd_notify).
CELERY_WORKER_CONSUMER = "ami_headend.worker_loop:Consumer"
CELERY_BEAT_MAX_LOOP_INTERVAL = sd_notify.EVERY_S
CELERY_BEAT_SCHEDULER = "ami_headend.beat:SteadyScheduler"
CELERY_BEAT_SCHEDULE = SCHEDULE | {
    "evaluate-alerts": SCHEDULE["evaluate-alerts"] | {"schedule": ALERT_EVALUATE_EVERY_S},
    "look-at-components": SCHEDULE["look-at-components"] | {"schedule": 2 * ALERT_EVALUATE_EVERY_S},
}
