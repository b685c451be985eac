"""The project: settings, addresses, Celery, console, alerts, sign-in, local services."""
