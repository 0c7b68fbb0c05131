"""What of a profile is needed to compare it with another: nodes, counts, and a sample of times for
each node.

A baseline is kept in this form: it can be read, and a capture's raw spans are not compared.
"""

from __future__ import annotations

import json
from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
import pandas as pd

from xsp.analysis.spans.statistics import trimmed
from xsp.comparing.node_facts import COLUMNS, COUNTS, node_facts, paths
from xsp.comparing.rules import COMPARABLE
from xsp.errors import CaptureError
from xsp.words.numbers import known_digits

if TYPE_CHECKING:
    from xsp.analysis.profile_data import ProfileData

Array = npt.NDArray[np.float64]

ENVIRONMENT = (
    "gpu",
    "gpu_count",
    "driver",
    "cuda",
    "cudnn",
    "torch",
    "power_limit_w",
    "cpu",
    "cpu_count",
    "torch_threads",
)
"""Facts that times depend on: two profiles' times are compared only where all of them are equal."""
SETTINGS = ("allow_tf32", "cudnn_allow_tf32", "cudnn_benchmark")
"""What a program can choose; a difference is worth a sentence, and its effect is what one wants to
measure.
"""

_FORMAT, _VERSION = "xsp comparable", 1
_DIGITS = 5
"""Significant digits of a time in JSON: finer than any clock's noise, and half the size."""


@dataclass(frozen=True)
class Comparable:
    """The nodes of one profile.

    `nodes` has the columns of `node_facts` and metric, ms, ci_ms (trimmed mean of the node's
    sample and half its 95 % interval). `host` and `device` hold each node's times in ms, one per
    run, by path: the model's unprofiled latency or the host's time in a node, and the GPU-busy time
    below it. `counts` are those of one run, `levels` those that were traced, `warnings` the
    profile's.
    """

    name: str
    environment: dict[str, Any]
    levels: tuple[str, ...]
    nodes: pd.DataFrame
    host: Mapping[str, Array]
    device: Mapping[str, Array]
    counts: dict[str, int]
    warnings: tuple[str, ...] = ()

    @property
    def samples(self) -> dict[str, Array]:
        """Each node's times in ms, one per run, in the metric that bounds it; empty where it has
        none.
        """
        pairs = zip(self.nodes["path"].tolist(), self.nodes["metric"].tolist(), strict=True)
        return {path: self.sample(path, metric) for path, metric in pairs}

    def sample(self, path: str, metric: str) -> Array:
        """A node's times in ms: metric "device", or "host" or "latency", which is the host's metric
        of the model.
        """
        return (self.device if metric == "device" else self.host).get(path, np.zeros(0))

    def to_json(self) -> str:
        """JSON text with a line per node, so that it can be read and kept under version control.

        The host's time in a node that the device bounds is left out: it is not compared.
        """
        rows = [
            json.dumps(row, ensure_ascii=False)
            for row in map(self._row, self.nodes.to_dict("records"))
        ]
        head = {
            "format": _FORMAT,
            "version": _VERSION,
            "name": self.name,
            "levels": self.levels,
            "notes": self.warnings,
            "environment": self.environment,
            "counts": self.counts,
        }
        start = json.dumps(head, indent=1, ensure_ascii=False).removesuffix("\n}")
        return f'{start},\n "nodes": [\n  ' + ",\n  ".join(rows) + "\n ]\n}\n"

    def _row(self, node: dict[Hashable, Any]) -> dict[str, Any]:
        path, metric = node.pop("path"), node["metric"]
        row = {str(key): value for key, value in node.items() if value not in ("", 0)}
        for key in ("ms", "ci_ms"):
            row[key] = known_digits(node[key], _DIGITS)
        samples = {"device_ms": self.device}
        if metric != "device":
            samples = {"host_ms": self.host, **samples}
        for key, times in samples.items():
            if path in times:
                row[key] = [known_digits(each, _DIGITS) for each in times[path].tolist()]
        return row

    @classmethod
    def from_json(cls, text: str) -> Comparable:
        """The inverse of `to_json`.

        Raises CaptureError if the text is something else, is damaged or was written by a newer xsp.
        """
        try:
            found = json.loads(text)
        except (ValueError, RecursionError) as error:
            raise CaptureError(
                f"this is not a baseline, because it is not JSON ({error}); measure and save it "
                "again"
            ) from error
        if not isinstance(found, dict) or found.get("format") != _FORMAT:
            raise CaptureError(
                f"this JSON is not a baseline: its format is not {_FORMAT!r}; measure and save it "
                "again"
            )
        version = found.get("version")
        if type(version) is not int or not 1 <= version <= _VERSION:
            raise CaptureError(
                f"this baseline has version {str(version)[:20]}, and this xsp reads versions up "
                f"to {_VERSION}; upgrade it"
            )
        if said := COMPARABLE(found):
            raise CaptureError(f"this baseline is damaged: it{said}; measure and save it again")
        return cls._read(found)

    @classmethod
    def _read(cls, found: Mapping[str, Any]) -> Comparable:
        rows = found["nodes"]
        nodes = pd.DataFrame(
            [_BLANK | {key: row[key] for key in row if key not in _TIMES} for row in rows]
        )
        nodes.insert(0, "path", paths(nodes))
        places = list(zip(nodes["path"].tolist(), rows, strict=True))
        host, device = (
            {path: np.array(row[key], dtype=np.float64) for path, row in places if key in row}
            for key in ("host_ms", "device_ms")
        )
        return cls(
            name=found["name"],
            environment=found["environment"],
            levels=tuple(found["levels"]),
            nodes=_timed(nodes[[*COLUMNS, "metric"]], host, device),
            host=host,
            device=device,
            counts=found["counts"],
            warnings=tuple(found["notes"]),
        )


_TIMES = ("ms", "ci_ms", "host_ms", "device_ms")
_BLANK: dict[str, Any] = {
    **dict.fromkeys(
        [
            "level",
            "name",
            "type",
            "phase",
            "kind",
            "input_shapes",
            "output_shapes",
            "input_dtypes",
            "output_dtypes",
            "metric",
        ],
        "",
    ),
    **dict.fromkeys(["parent", "order", "calls", "parameter_bytes", *COUNTS], 0),
}


def comparable(profile: ProfileData | Comparable) -> Comparable:
    """What of a profile is compared; what is comparable already is given back."""
    if isinstance(profile, Comparable):
        return profile
    facts = node_facts(profile)
    nodes = facts.nodes
    traced = profile.levels.loc[profile.levels["status"] == "traced", "level"]
    environment = {key: profile.environment.get(key) for key in (*ENVIRONMENT, *SETTINGS)}
    return Comparable(
        name=profile.name,
        environment={key: value for key, value in environment.items() if value is not None},
        levels=tuple(str(level) for level in traced),
        nodes=_timed(
            nodes.assign(metric=_metrics(nodes, facts.host, facts.device)), facts.host, facts.device
        ),
        host=facts.host,
        device=facts.device,
        counts={name: int(nodes[name].iloc[0]) for name in COUNTS}
        | {"layers": int((nodes["level"] == "LAYER").sum())},
        warnings=tuple(profile.warnings),
    )


def _metrics(
    nodes: pd.DataFrame, host: Mapping[str, Array], device: Mapping[str, Array]
) -> npt.NDArray[Any]:
    """What bounds each node: "latency" of the model; the device where it takes longer than the
    host; else the host.
    """
    every = nodes["path"].tolist()
    waited, busy = (
        np.nan_to_num(_summaries([times.get(path, _NONE) for path in every])[0])
        for times in (host, device)
    )
    bound = np.where((busy > 0) & (busy >= waited), "device", "host")
    return np.where(nodes["level"] == "MODEL", "latency", bound).astype(object)


def _timed(
    nodes: pd.DataFrame, host: Mapping[str, Array], device: Mapping[str, Array]
) -> pd.DataFrame:
    """The nodes with ms and ci_ms, the summary of each one's own sample; NaN where it has none."""
    pairs = zip(nodes["path"].tolist(), nodes["metric"].tolist(), strict=True)
    mean, half = _summaries(
        [(device if metric == "device" else host).get(path, _NONE) for path, metric in pairs]
    )
    return nodes.assign(ms=mean, ci_ms=half)


_NONE: Array = np.zeros(0)


def _summaries(samples: Sequence[Array]) -> tuple[Array, Array]:
    """Trimmed mean of each sample and half its 95 % interval; samples of one length are summarised
    together.
    """
    lengths = np.array([len(sample) for sample in samples], dtype=np.int64)
    mean, half = np.full(len(samples), np.nan), np.full(len(samples), np.nan)
    for length in np.unique(lengths[lengths > 0]).tolist():
        which = np.flatnonzero(lengths == length)
        together = np.stack([samples[at] for at in which.tolist()], axis=1)
        mean[which], half[which] = trimmed(together)
    return mean, half
