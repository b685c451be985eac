"""What is logged, and in which format."""

import logging

from ami_headend import logs
from ami_headend.settings.environment import env

LOGGING = {
    "version": 1,
    "disable_existing_loggers": False,
    "formatters": {"line": {"()": logs.LineFormatter, "format": "%(asctime)s %(levelname)s %(name)s: %(message)s"}},
    "filters": {
        "without_traceback": {"()": "django.utils.log.CallbackFilter", "callback": logs.without_traceback},
        "in_one_line": {"()": "django.utils.log.CallbackFilter", "callback": logs.in_one_line},
        "with_sender": {"()": "django.utils.log.CallbackFilter", "callback": logs.with_sender},
        "no_routine": {"()": "django.utils.log.CallbackFilter", "callback": logs.is_no_routine},
    },
    "handlers": {"stderr": {"class": "logging.StreamHandler", "formatter": "line"}},
    # Two lines for each uplink would drown the rest; failures of tasks are logged above INFO.
    "loggers": {
        **{name: {"level": "WARNING"} for name in ("celery.worker.strategy", "celery.app.trace", "httpx", "axes")},
        "paramiko": {"level": "CRITICAL"},  # whoever calls it says what failed
        "celery.beat": {"filters": ["no_routine"]},
        "django.request": {"filters": ["without_traceback", "with_sender"]},
        **{
            f"django.security.{name}": {"filters": ["in_one_line"]}
            for name in ("DisallowedHost", "TooManyFieldsSent", "TooManyFilesSent", "RequestDataTooBig")
        },
        "waitress": {"level": "WARNING"},
    },
    "root": {"handlers": ["stderr"], "level": env.log_level("LOG_LEVEL", logging.INFO)},
}
