"""Remarks that libraries log, and that say nothing to who runs xsp."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def without_remarks(logger_name: str) -> Iterator[None]:
    """What this logger says below an error is left out meanwhile."""
    logger = logging.getLogger(logger_name)
    before = logger.level
    logger.setLevel(logging.ERROR)
    try:
        yield
    finally:
        logger.setLevel(before)
