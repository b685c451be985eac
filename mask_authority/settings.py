"""Settings of ``manage.py mask_authority``: it has no database of Django's, no secret and no environment variable."""

INSTALLED_APPS = ["mask_authority"]
USE_TZ = True
TIME_ZONE = "UTC"
LOGGING = {
    "version": 1,
    "disable_existing_loggers": False,
    "formatters": {"line": {"format": "{asctime} {levelname} {message}", "style": "{"}},
    "handlers": {"stderr": {"class": "logging.StreamHandler", "formatter": "line"}},
    "loggers": {"mask_authority": {"handlers": ["stderr"], "level": "INFO"}},
}
