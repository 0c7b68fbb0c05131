"""What OpenTelemetry is told about a profile and its spans: the `xsp.*` schema, documented in
docs/opentelemetry.md.

An attribute of OpenTelemetry's semantic conventions is used where one means the same thing;
everything else is below `xsp.`.
"""

from __future__ import annotations

import ast
import json
from typing import Any

import pandas as pd
from opentelemetry.sdk.resources import SERVICE_NAME, Resource
from opentelemetry.util.types import AttributeValue

from xsp.analysis.profile_data import ProfileData
from xsp.types import Level

Attributes = dict[str, AttributeValue]

SCOPES = {level: f"xsp.{level.name.lower()}" for level in Level}
"""Name of the instrumentation scope of each level's spans."""

_RESOURCE = {
    "python": "process.runtime.version",
    "cpu": "host.cpu.model.name",
    "platform": "os.description",
    "gpu": "hw.model",
    "driver": "hw.driver_version",
    "xsp": "xsp.version",
    "torch": "xsp.torch.version",
    "cuda": "xsp.cuda.version",
    "cudnn": "xsp.cudnn.version",
    "torch_threads": "xsp.torch.threads",
    "cpu_count": "xsp.cpu.count",
    "gpu_count": "xsp.gpu.count",
    "gpu_memory_bytes": "xsp.gpu.memory_bytes",
    "compute_capability": "xsp.gpu.compute_capability",
    "multiprocessors": "xsp.gpu.multiprocessors",
}
"""Resource attribute by key of `Profile.environment`."""

_LAYER_PLAIN = ("type", "kind", "module", "phase")
_TENSORS = ("input_shapes", "input_dtypes", "output_shapes", "output_dtypes")
_LAYER_BYTES = ("parameter_bytes", "allocated_bytes", "peak_bytes")
_KERNEL_PLAIN = (
    "kind",
    "registers_per_thread",
    "static_shared_bytes",
    "dynamic_shared_bytes",
    "bytes",
)


def resource_attributes(environment: dict[str, Any]) -> Attributes:
    """What the numbers were measured on, as far as the capture knows it."""
    found: Attributes = {
        name: environment[key]
        for key, name in _RESOURCE.items()
        if environment.get(key) not in (None, "")
    }
    if "gpu" in environment:
        found |= {"hw.type": "gpu"}
        found |= {"hw.vendor": "NVIDIA"} if environment.get("cuda") else {}
    if environment.get("platform"):
        found["os.type"] = str(environment["platform"]).partition("-")[0].lower()
    return found


def resource_of(profile: ProfileData, application: Resource | None) -> Resource:
    """The application's resource, or the one that the `OTEL_*` environment describes, with the
    profile's facts added.

    Without either, `service.name` is `xsp`.
    """
    own = resource_attributes(profile.environment)
    base = application if application is not None else Resource.create()
    if application is None and str(base.attributes.get(SERVICE_NAME, "unknown_service")).startswith(
        "unknown_service"
    ):
        own[SERVICE_NAME] = "xsp"
    return base.merge(Resource(own))


def detail_attributes(profile: ProfileData, level: Level) -> list[Attributes]:
    """Attributes shared by all spans of a level with the same `detail`, one entry per row of the
    level's table.
    """
    if level is Level.MODEL:
        summary = _summary(profile)
        return [_model(row) | summary for row in _records(profile.table("calls"))]
    table, describe = {
        Level.LAYER: ("layers", _layer),
        Level.OP: ("operators", _operator),
        Level.LIBRARY: ("library_calls", _library),
        Level.KERNEL: ("kernels", _kernel),
    }[level]
    there = profile.raw_tables(table)
    return [describe(row) for row in _records(there[table])] if there else []


def launch_attributes(name: str) -> Attributes:
    """Attributes of the API call that launched a device activity."""
    return {"code.function.name": name, "xsp.launch": True}


def _records(table: pd.DataFrame) -> list[dict[str, Any]]:
    # A column at a time: tolist() gives Python's own numbers, which is what OpenTelemetry encodes.
    columns = {str(name): table[name].tolist() for name in table.columns}
    return [dict(zip(columns, row, strict=True)) for row in zip(*columns.values(), strict=True)]


def _summary(profile: ProfileData) -> Attributes:
    """What a reader of one trace must know about the whole profile."""
    found: Attributes = {
        "xsp.profile.runs": len(profile.runs),
        "xsp.profile.lost": profile.lost,
        "xsp.profile.latency_ms": profile.latency_ms,
        "xsp.profile.latency_ci_ms": profile.latency_ci_ms,
    }
    return found | ({"xsp.profile.warnings": tuple(profile.warnings)} if profile.warnings else {})


def _model(row: dict[str, Any]) -> Attributes:
    found: Attributes = {"xsp.model.call": row["call"]} | _tensors(
        "xsp.model", row, ("input_shapes", "input_dtypes")
    )
    return found | ({"xsp.model.batch_size": row["batch_size"]} if row["batch_size"] >= 0 else {})


def _layer(row: dict[str, Any]) -> Attributes:
    found: Attributes = {f"xsp.layer.{name}": row[name] for name in _LAYER_PLAIN if row[name]}
    known: Attributes = {f"xsp.layer.{name}": row[name] for name in _LAYER_BYTES if row[name] >= 0}
    return found | known | _tensors("xsp.layer", row, _TENSORS)


def _operator(row: dict[str, Any]) -> Attributes:
    return {"code.function.name": row["name"]}


def _library(row: dict[str, Any]) -> Attributes:
    found: Attributes = {"code.function.name": row["name"], "xsp.library.name": row["library"]}
    if row["arguments"] not in ("", "{}"):
        found["xsp.library.arguments"] = row["arguments"]
    return found | ({} if pd.isna(row["flops"]) else {"xsp.library.flops": int(row["flops"])})


def _kernel(row: dict[str, Any]) -> Attributes:
    if row["kind"] != "kernel":
        return {"xsp.kernel.kind": row["kind"], "xsp.kernel.bytes": row["bytes"]}
    found: Attributes = {
        f"xsp.kernel.{name}": row[name] for name in _KERNEL_PLAIN if name != "bytes"
    }
    shape: Attributes = {
        f"xsp.kernel.{what}": tuple(row[f"{what}_{axis}"] for axis in "xyz")
        for what in ("grid", "block")
    }
    return {"code.function.name": row["name"]} | found | shape


def _tensors(prefix: str, row: dict[str, Any], names: tuple[str, ...]) -> Attributes:
    """One string per tensor: attribute values cannot be nested lists."""
    return {f"{prefix}.{name}": values for name in names if (values := _strings(row[name]))}


def _strings(text: str) -> tuple[str, ...]:
    try:
        values = json.loads(text)
    except json.JSONDecodeError:
        # Captures of early versions have lists of names as Python writes them.
        values = ast.literal_eval(text)
    return tuple(each if isinstance(each, str) else json.dumps(each) for each in values)
