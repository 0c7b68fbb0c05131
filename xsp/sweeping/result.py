"""Profiles of one program over a parameter, such as the batch size: the tables over them, and their
folder.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from html import escape
from math import isnan
from pathlib import Path
from typing import Any

import pandas as pd

from xsp.capture.limits import text_of
from xsp.capture.rules import items, real, record, whole
from xsp.capture.rules import text as unicode_text
from xsp.capture.writing import staged_folder, write_file
from xsp.errors import CaptureError, TargetError
from xsp.profiles import Profile, load
from xsp.sweeping.batch_size import OptimalBatchSize, optimal_batch_size

BATCH_SIZE = "batch_size"
VERSION = 1
MANIFEST = "sweep.json"
_FORMAT = "xsp sweep"

Value = int | float | str
"""A value of the parameter: something that a manifest can name."""


@dataclass(frozen=True)
class Sweep:
    """Profiles by value of `parameter`, in the order in which they were asked for.

    `failures` has a sentence for each value that could not be measured, such as a batch that did
    not fit in memory.
    """

    parameter: str
    profiles: Mapping[Value, Profile] = field(default_factory=dict)
    failures: Mapping[Value, str] = field(default_factory=dict)

    def model_information(self) -> pd.DataFrame:
        """`xsp.analysis.model_information` (A1) with a row for each profile.

        Where the parameter is the batch size, batch_size, latency_per_input_ms and throughput_per_s
        come from its values; else the parameter is the first column.
        """
        from xsp.analysis.model import model_information

        table = model_information(list(self.profiles.values()))
        if self.parameter == BATCH_SIZE:
            sizes = pd.Series(list(self.profiles), index=table.index, dtype="Int64")
            per_input = table["latency_ms"] / sizes.astype(float)
            return table.assign(
                batch_size=sizes, latency_per_input_ms=per_input, throughput_per_s=1e3 / per_input
            )
        return self._labelled(table)

    def kernels_by_model(self) -> pd.DataFrame:
        """`xsp.analysis.kernels_by_model` (A15) with a row for each profile; the parameter as
        above.
        """
        from xsp.analysis.model import kernels_by_model

        table = kernels_by_model(list(self.profiles.values()))
        if self.parameter == BATCH_SIZE:
            return table.assign(
                batch_size=pd.Series(list(self.profiles), index=table.index, dtype="Int64")
            )
        return self._labelled(table)

    def optimal_batch_size(self) -> OptimalBatchSize:
        """The smallest batch size whose doubling does not raise throughput by more than 5 % (XSP,
        section IV-B).

        A pair `(batch_size, reason)`. The batch size is None where no doubling that was measured
        brings so little; the reason says so, and names what failed.

        Raises TargetError if another parameter than the batch size was swept.
        """
        if self.parameter != BATCH_SIZE:
            raise TargetError(
                f"this sweep is over {self.parameter!r}; an optimal batch size needs one over "
                "batch_size"
            )
        found = optimal_batch_size(
            {
                int(size): (prof.latency_ms, prof.latency_ci_ms)
                for size, prof in self.profiles.items()
            }
        )
        if found.batch_size is None and self.failures:
            failed = "; ".join(
                f"{value} failed: {reason}" for value, reason in self.failures.items()
            )
            return OptimalBatchSize(None, f"{found.reason}; {failed}")
        return found

    def save(self, folder: str | os.PathLike[str]) -> Path:
        """Write one capture for each value and a manifest; `xsp.load_sweep` opens the folder
        anywhere. Raises WriteError, and leaves the folder as it was, where it cannot be written.
        """
        with staged_folder(folder, last=MANIFEST) as staged:
            self._write(staged)
        return Path(folder)

    def _write(self, folder: Path) -> None:
        entries: list[dict[str, Any]] = []
        for value, prof in self.profiles.items():
            name = _capture_name(self.parameter, value, len(entries))
            prof.save(folder / name)
            entries.append({"value": value, "capture": name})
        entries += [{"value": value, "failure": reason} for value, reason in self.failures.items()]
        manifest = {
            "format": _FORMAT,
            "version": VERSION,
            "parameter": self.parameter,
            "entries": entries,
        }
        write_file(folder / MANIFEST, (json.dumps(manifest, indent=1) + "\n").encode())

    def _labelled(self, table: pd.DataFrame) -> pd.DataFrame:
        name = self.parameter if self.parameter not in table.columns else f"{self.parameter}_value"
        labelled = table.copy()
        labelled.insert(0, name, list(self.profiles))
        return labelled

    def __repr__(self) -> str:
        return "\n".join(
            [self._title(), "", self._shown().to_string(index=False), *("", *self._remarks())]
        )

    def _repr_html_(self) -> str:
        paragraphs = "".join(f"<p>{escape(line)}</p>" for line in self._remarks())
        return (
            f"<p><b>{escape(self._title())}</b></p>{self._shown().to_html(index=False)}{paragraphs}"
        )

    def _title(self) -> str:
        names = dict.fromkeys(prof.name for prof in self.profiles.values())
        return f"{', '.join(names) or 'nothing'} over {self.parameter}"

    def _shown(self) -> pd.DataFrame:
        rows = [
            {
                self.parameter: value,
                "latency_ms": f"{prof.latency_ms:.3f}",
                "±": f"{prof.latency_ci_ms:.3f}",
                "inputs/s"
                if self.parameter == BATCH_SIZE
                else "calls/s": f"{self._rate(value, prof):.1f}",
                "kernels": prof.kernel_count,
                "GPU-busy": _percent(float(prof.tree()["device_ms"].iloc[0]) / prof.latency_ms),
            }
            for value, prof in self.profiles.items()
        ]
        return pd.DataFrame(rows)

    def _rate(self, value: Value, prof: Profile) -> float:
        return (float(value) if self.parameter == BATCH_SIZE else 1.0) * 1e3 / prof.latency_ms

    def _remarks(self) -> list[str]:
        failed = [
            f"{self.parameter} {value} failed: {reason}" for value, reason in self.failures.items()
        ]
        if self.parameter != BATCH_SIZE:
            return failed
        rows = self.optimal_batch_size()
        return [*failed, f"optimal batch size {rows}"]


def _percent(share: float) -> str:
    return "–" if isnan(share) else f"{share:.0%}"


def _capture_name(parameter: str, value: Value, place: int) -> str:
    """A name that sorts in the order of the sweep, safe for every file system."""
    return f"{place:02}-{re.sub(r'[^A-Za-z0-9.]+', '_', f'{parameter}_{value}')}.xsp"


def load_sweep(folder: str | os.PathLike[str]) -> Sweep:
    """Open a folder that `Sweep.save` wrote.

    Raises CaptureError if it has no manifest, the manifest is damaged or newer, or a capture is
    missing or damaged.
    """
    path = Path(folder) / MANIFEST
    if not path.is_file():
        raise CaptureError(
            f"there is no {MANIFEST} in {str(folder)!r}; give the folder that a sweep was saved to"
        )
    try:
        manifest = json.loads(text_of(path))
    except (OSError, ValueError, RecursionError) as error:
        raise CaptureError(
            f"{str(path)!r} is not the manifest of a sweep, or it is damaged "
            f"({type(error).__name__}: {error}); save the sweep again"
        ) from error
    if said := _MANIFEST_RULE(manifest):
        raise CaptureError(
            f"{str(path)!r} is not the manifest of a sweep, or it is damaged: it{said}; save the "
            "sweep again"
        )
    if manifest["format"] != _FORMAT or manifest["version"] > VERSION:
        raise CaptureError(
            f"{str(path)!r} says format {manifest['format']!r}, version "
            f"{manifest['version']!r}; this xsp reads "
            f"{_FORMAT!r} up to {VERSION}: upgrade with `pip install --upgrade xsp`"
        )
    return Sweep(manifest["parameter"], *_opened(Path(folder), manifest["entries"]))


def _is_value(value: Any) -> str:
    return unicode_text(value) if isinstance(value, str) else real()(value)


_MANIFEST_RULE = record(
    {
        "format": unicode_text,
        "version": whole(1, 2**31),
        "parameter": unicode_text,
        "entries": items(
            record({"value": _is_value}, {"capture": unicode_text, "failure": unicode_text})
        ),
    }
)


def _opened(
    folder: Path, entries: Iterable[Mapping[str, Any]]
) -> tuple[dict[Value, Profile], dict[Value, str]]:
    entries = list(entries)
    # Only the name: a manifest from elsewhere must not lead out of its folder.
    profiles = {
        entry["value"]: load(folder / Path(entry["capture"]).name)
        for entry in entries
        if "capture" in entry
    }
    return profiles, {
        entry["value"]: str(entry["failure"]) for entry in entries if "failure" in entry
    }
