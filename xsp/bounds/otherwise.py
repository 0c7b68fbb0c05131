"""What is asked of a what-if: which layers and kernels, and how they would be otherwise."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence, Set
from dataclasses import dataclass, field
from fnmatch import translate

import numpy as np
import numpy.typing as npt
import pandas as pd

from xsp.errors import XspError

KERNEL = "kernel:"
"""Names that begin so are kernels'; others are layers'."""

Names = str | Iterable[str]
Bools = npt.NDArray[np.bool_]


@dataclass(frozen=True)
class Otherwise:
    """What is otherwise; every name is a pattern (`layer1.*`), of kernels after `kernel:`.

    `faster` is by how much, `takes_ms` what one call of a layer takes on the device, `gone` what is
    not computed; `fused` are groups of layers of which only the longest still takes device time.
    `no_sync`, `no_launch`, `no_framework` and `cuda_graph` are layers without synchronisation,
    without the host's time for launches, with no other host time than that, and launched as one
    graph.
    """

    faster: Mapping[str, float] = field(default_factory=dict)
    takes_ms: Mapping[str, float] = field(default_factory=dict)
    gone: tuple[str, ...] = ()
    fused: tuple[tuple[str, ...], ...] = ()
    no_sync: tuple[str, ...] = ()
    no_launch: tuple[str, ...] = ()
    no_framework: tuple[str, ...] = ()
    cuda_graph: tuple[str, ...] = ()
    fast_host: bool = False
    fast_gpu: bool = False

    @classmethod
    def of(
        cls,
        *,
        faster: Mapping[str, float] | None = None,
        takes_ms: Mapping[str, float] | None = None,
        gone: Names = (),
        fused: Sequence[Sequence[str]] = (),
        no_sync: Names = (),
        no_launch: Names = (),
        no_framework: Names = (),
        cuda_graph: Names = (),
        fast_host: bool = False,
        fast_gpu: bool = False,
    ) -> Otherwise:
        """From the arguments of `Profile.what_if`."""
        return cls(
            faster or {},
            takes_ms or {},
            _tuple_of(gone),
            tuple(tuple(group) for group in fused),
            _tuple_of(no_sync),
            _tuple_of(no_launch),
            _tuple_of(no_framework),
            _tuple_of(cuda_graph),
            fast_host,
            fast_gpu,
        )

    @property
    def patterns(self) -> list[str]:
        """Every name given."""
        groups = [name for group in self.fused for name in group]
        return [
            *self.faster,
            *self.takes_ms,
            *self.gone,
            *groups,
            *self.no_sync,
            *self.no_launch,
            *self.no_framework,
            *self.cuda_graph,
        ]

    def check(self, layers: Set[str], kernels: Set[str]) -> None:
        """Raises XspError for a name that nothing has, and for a factor that is not above 0."""
        for name, times in self.faster.items():
            if not times > 0:
                raise XspError(f"the speed-up of {name!r} must be > 0, not {times}")
        for pattern in self.patterns:
            there = kernels if pattern.startswith(KERNEL) else layers | {""}
            if not _names_any(pattern, there):
                some = ", ".join(sorted(layers - {""})[:4])
                raise XspError(
                    f"nothing in this profile is called {pattern!r}; layers are {some}, …; a "
                    f"pattern such as 'layer1.*' names several, and {KERNEL}*gemm* names kernels"
                )


def _tuple_of(given: Names) -> tuple[str, ...]:
    return (given,) if isinstance(given, str) else tuple(given)


def _plain(pattern: str) -> str | None:
    """The name that a pattern without signs is; signs may be quoted, as in `x[[]0]`."""
    name = pattern.removeprefix(KERNEL).replace("[[]", "\0")
    return None if set("*?[") & set(name) else name.replace("\0", "[")


def _names_any(pattern: str, names: Set[str]) -> bool:
    plain = _plain(pattern)
    return plain in names if plain is not None else bool(Named(names).matching([pattern]).any())


class Named:
    """Names of rows, to be picked by patterns again and again.

    Plain names are looked up: a model of 100,000 layers is asked for 50,000 of them at once.
    """

    def __init__(self, names: Iterable[str]) -> None:
        self._code, distinct = pd.factorize(np.array(list(names), dtype=object))
        self._place = {str(name): place for place, name in enumerate(distinct.tolist())}

    def matching(self, patterns: Iterable[str]) -> Bools:
        """The rows whose name any of the patterns fits."""
        fits = np.zeros(len(self._place), dtype=bool)
        for pattern in patterns:
            name = _plain(pattern)
            if name is None:
                fits |= self._fitting(pattern)
            elif name in self._place:
                fits[self._place[name]] = True
        found: Bools = fits[self._code]
        return found

    def _fitting(self, pattern: str) -> Bools:
        match = re.compile(translate(pattern.removeprefix(KERNEL))).match
        return np.array([match(name) is not None for name in self._place], dtype=bool)
