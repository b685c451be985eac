"""What is left out of the log, so that what stands there is worth reading."""

import logging


def without_traceback(record: logging.LogRecord) -> bool:
    """One line for a request that was refused or not understood; where the head-end itself failed, all of it."""
    if record.levelno < logging.ERROR:
        record.exc_info = record.exc_text = None
    return True


def in_one_line(record: logging.LogRecord) -> bool:
    """One line for what strangers can bring about as often as they like."""
    record.exc_info = record.exc_text = None
    return True


def is_no_routine(record: logging.LogRecord) -> bool:
    """All but beat's line for each task that it sends, every few seconds."""
    return "Sending due task" not in str(record.msg)
