"""Celery: the broker, the queues, the limits of tasks and the schedule."""

from kombu import Queue

from ami_headend import queues
from ami_headend.core import broker_url, lifesign, tasklimits
from ami_headend.schedule import SCHEDULE
from ami_headend.settings.databases import REDIS_URL

CELERY_BROKER_URL = broker_url.celery_broker_url(REDIS_URL)
CELERY_TASK_IGNORE_RESULT = True
CELERY_TASK_SERIALIZER = "json"
CELERY_ACCEPT_CONTENT = ["json"]
CELERY_WORKER_PREFETCH_MULTIPLIER = 4
CELERY_WORKER_HIJACK_ROOT_LOGGER = False
# Redis away, or answering with an error (read-only, full, loading, unable to save): tried again until it is well.
CELERY_BROKER_CONNECTION_RETRY_ON_STARTUP = True
CELERY_BROKER_CONNECTION_MAX_RETRIES = None
CELERY_BROKER_CHANNEL_ERROR_RETRY = True
# max_retries: publishing gives up at once (kombu would go on for 6 s); the octets are stored, and the sweep enqueues.
CELERY_BROKER_TRANSPORT_OPTIONS = {
    "socket_timeout": 5,
    "socket_connect_timeout": 2,
    "max_retries": 0,
    # Redis keeps no account of what workers hold: the sweep does. With it, a worker that holds tasks ends for good
    # when Redis goes away (kombu 5.7: "Unrecoverable error" while it gives them back).
    "ack_emulation": False,
}
# Celery's Django fixup would close the connection, and with it every prepared plan, after so many tasks, and where
# this is 0 after each, whatever CONN_MAX_AGE says. A connection that broke is opened anew all the same.
CELERY_DB_REUSE_MAX = 1_000_000
CELERY_TASK_QUEUES = [Queue(name) for name in queues.QUEUES]
CELERY_TASK_DEFAULT_QUEUE = queues.BACKGROUND
CELERY_TASK_ROUTES = queues.ROUTES
CELERY_TASK_SOFT_TIME_LIMIT = tasklimits.SOFT_TIME_LIMIT_S
CELERY_TASK_TIME_LIMIT = tasklimits.TIME_LIMIT_S
# Redis carries ids of rows and nothing else. Whoever can write to it could otherwise have workers stop, or tell their
# settings; and workers that are asked through Redis say nothing of whether they reach the database.
CELERY_WORKER_ENABLE_REMOTE_CONTROL = False
CELERY_BEAT_ENABLE_REMOTE_CONTROL = False
CELERY_WORKER_SEND_TASK_EVENTS = False
# The main loops show that they live, every few seconds (ami_headend.core.lifesign).
CELERY_WORKER_CONSUMER = "ami_headend.consumer:Consumer"
CELERY_BEAT_MAX_LOOP_INTERVAL = lifesign.EVERY_S
CELERY_BEAT_SCHEDULER = "ami_headend.beat:SteadyScheduler"
CELERY_BEAT_SCHEDULE = SCHEDULE
