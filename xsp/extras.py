"""Packages that only a part of xsp needs: what for, and how to get one that is missing.

`pip install xsp` brings what opens captures, reports on them and compares them.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from importlib import import_module

from xsp.errors import MissingPackageError

_NEEDED_FOR = {
    "torch": (
        "measuring needs it, and so does reading PyTorch models",
        "pip install torch (the build for your CUDA version: https://pytorch.org/get-started); "
        "saved captures open, report and compare without it",
    ),
    "plotly": (
        "figures and HTML pages need it",
        "pip install plotly, or install xsp with the extra html; tables and text do without",
    ),
}
"""By package: what needs it, and the way out."""


def require(package: str) -> None:
    """Import a package of the list above.

    Raises MissingPackageError, with what needs it and how to get it, where it is not installed.
    One that is installed and broken raises what it raises.
    """
    with explained():
        import_module(package)


@contextmanager
def explained() -> Iterator[None]:
    """Imports inside the block: one that fails because a package of the list above is not
    installed raises MissingPackageError.
    """
    try:
        yield
    except ModuleNotFoundError as error:
        package = (error.name or "").partition(".")[0]
        # A submodule that is missing from an installed package is a broken installation.
        if error.name != package or package not in _NEEDED_FOR:
            raise
        what, way_out = _NEEDED_FOR[package]
        raise MissingPackageError(
            f"{package} is not installed, and {what}: {way_out}", name=package
        ) from error
