"""The functions of a library that say what a descriptor holds."""

from __future__ import annotations

import ctypes
import os
from typing import Any


class DecodingError(Exception):
    """A getter refused; the message names it and the status it returned."""


class Getters:
    """The exported functions of the library file that a call goes to. Nothing is loaded that was
    not.
    """

    def __init__(self, path: str) -> None:
        self._library = ctypes.CDLL(path, mode=os.RTLD_NOLOAD | os.RTLD_LAZY)

    def call(self, name: str, *arguments: Any) -> None:
        """Call a getter, all of which return 0 for success.

        Raises:
            DecodingError: the library lacks the function or it returned a status other than
            success.

        """
        function = getattr(self._library, name, None)
        if function is None:
            msg = f"the library has no {name}"
            raise DecodingError(msg)
        status = function(*arguments)
        if status:
            msg = f"{name} returned {status}"
            raise DecodingError(msg)
