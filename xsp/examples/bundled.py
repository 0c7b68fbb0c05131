"""Opening a capture that comes with the package."""

from __future__ import annotations

from importlib import resources

from xsp.errors import CaptureError
from xsp.profiles import Profile, load

_SUFFIX = ".xsp"


def names() -> list[str]:
    """Names that `example` knows."""
    files = resources.files("xsp.examples").iterdir()
    return sorted(each.name.removesuffix(_SUFFIX) for each in files if _SUFFIX in each.name)


def example(name: str = "resnet50") -> Profile:
    """A profile that comes with the package, to look at without torch and without a GPU:
    `resnet50` is ResNet-50 at batch size 32 in eager mode, recorded on an H100 at all four levels.

    Raises CaptureError for a name that there is no example of.
    """
    if name not in names():
        raise CaptureError(
            f"there is no example {name!r}; the examples are {', '.join(names())}; a file of your "
            "own is opened by xsp.load(path)"
        )
    with resources.as_file(resources.files("xsp.examples") / f"{name}{_SUFFIX}") as path:
        return load(path)
