"""Lower bounds, Benanza Ratios and findings of many models on this machine, as JSON and as the
tables of docs/bounds.md.

    python benchmarks/bounds.py --folder results --budget-s 560 --later-s 120
    python benchmarks/bounds.py --folder results --budget-s 560              # goes on
    python benchmarks/bounds.py --output benchmarks/results/bounds_h200.json --page docs/bounds.md

Models are built from configurations with random weights (zoo.py, torchvision); nothing is
downloaded. They run in a worker process, one after another: a model that raises is recorded and the
next one goes on; a worker that dies is started again after that model. The JSON is written after
every model and the database after every layer, so that a run that is killed loses nothing: a later
one with the same folder goes on where it stopped. A model may spend on its layers what the others
do not need (`--reserve-s` each); what it leaves is in its row (`left`).

First come the layers of which gaps between algorithms were claimed, and ResNet-50's layers over all
algorithms, timed, and the same from the database.
"""

from __future__ import annotations

import argparse
import gc
import json
import subprocess
import sys
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bounds_page import ALGORITHMS, CLAIMS, write_page

PAPER = (
    "alexnet",
    "densenet121",
    "googlenet",
    "inception_v3",
    "mobilenet_v2",
    "resnet18",
    "resnet34",
    "resnet50",
    "resnet101",
    "resnet152",
    "shufflenet_v2_x1_0",
    "squeezenet1_1",
    "vgg16",
    "vgg16_bn",
    "vgg19",
    "vgg19_bn",
)
"""Models of the paper that torchvision has; as there with one image in float32."""
ZOO = (
    "resnet50",
    "resnet50_channels_last",
    "bert_base",
    "vit_b_16",
    "gpt2",
    "mobilenet_v2",
    "llama_8_layers",
    "convnext_tiny",
    "efficientnet_b0",
    "swin_t",
    "deit_small",
    "mixer_b_16",
    "roberta_base",
    "distilbert",
    "opt_125m",
    "unet_diffusion",
    "lstm",
    "dlrm",
    "whisper_small",
    "t5_small",
)
"""Models of benchmarks/zoo.py, in half precision and with the batch that they have there."""
TRIES = 2
"""A model during which a run was killed so often is not begun again."""


def main() -> None:
    options = _options()
    if options.page is not None:
        rows = _rows(options.output or options.folder / "bounds.json")
        write_page(rows, _rows(options.applied), options.page)
    elif options.worker:
        _work(options)
    else:
        _supervise(options)


@dataclass(frozen=True)
class Files:
    """The results and the database of a run, in its folder."""

    rows: Path
    database: Path

    @classmethod
    def of(cls, options: argparse.Namespace) -> Files:
        folder = options.folder
        folder.mkdir(parents=True, exist_ok=True)
        return cls(options.output or folder / "bounds.json", folder / "bounds.sqlite")


def names(options: argparse.Namespace) -> list[str]:
    """What to run: `paper/NAME` and `zoo/NAME`, after the single layers."""
    if options.models:
        return [name for name in options.models.split(",") if name]
    models = [f"paper/{name}" for name in PAPER] + [f"zoo/{name}" for name in ZOO]
    return [CLAIMS, ALGORITHMS, *models] if options.device == "cuda" else models


def todo(wanted: list[str], rows: Mapping[str, Any], complete: bool = False) -> list[str]:
    """Those that have no result yet; with `complete` also those that left layers, after them."""
    new = [name for name in wanted if name not in rows or rows[name].get("state") == "begun"]
    left = [name for name in wanted if complete and rows.get(name, {}).get("left")]
    return [*new, *(name for name in left if name not in new)]


def ended_early(before: Mapping[str, Any], why: str) -> dict[str, Any]:
    """The row of a model during which a run ended: what an earlier run found, if there is that."""
    if "bounds" in before:
        return {name: value for name, value in before.items() if name != "state"}
    return {"error": why}


def _supervise(options: argparse.Namespace) -> None:
    """Run workers until every model is done, has failed, or the time is spent."""
    begin, files, wanted = time.monotonic(), Files.of(options), names(options)
    while left := todo(wanted, _rows(files.rows), options.complete):
        seconds = options.budget_s - (time.monotonic() - begin)
        if seconds < options.reserve_s:
            break
        ended = _worker(options, left, seconds)
        rows = _rows(files.rows)
        begun = [name for name in left if rows.get(name, {}).get("state") == "begun"]
        for name in begun:
            _keep(files.rows, name, ended_early(rows[name], f"the worker ended with {ended}"))
        if not begun:
            break
    rows = _rows(files.rows)
    done = sum("state" not in rows.get(name, {"state": ""}) for name in wanted)
    failed = [name for name in wanted if "error" in rows.get(name, {})]
    print(
        f"{done} of {len(wanted)} done in {time.monotonic() - begin:.0f} s, of them "
        f"{len(failed)} failed ({', '.join(failed)}); not begun: "
        f"{', '.join(todo(wanted, rows)) or 'none'}"
    )


def _worker(options: argparse.Namespace, left: list[str], seconds: float) -> int | str:
    command = [sys.executable, __file__, "--worker", "--models", ",".join(left)]
    command += ["--device", options.device, "--folder", str(options.folder)]
    command += ["--output", str(Files.of(options).rows), "--budget-s", str(seconds)]
    command += ["--later-s", str(options.later_s), "--reserve-s", str(options.reserve_s)]
    command += ["--most-s", str(options.most_s), "--profile-s", str(options.profile_s)]
    try:
        return subprocess.run(command, check=False, timeout=seconds + 20).returncode
    except subprocess.TimeoutExpired:
        return "too little time"


def _work(options: argparse.Namespace) -> None:
    """Run the models given, one after another, within the time."""
    from xsp.database.store import Store

    begin, files, wanted = time.monotonic(), Files.of(options), names(options)
    with Store(files.database) as store:
        for place, name in enumerate(wanted):
            left = options.budget_s - (time.monotonic() - begin)
            if left < options.reserve_s:
                return
            before = _rows(files.rows).get(name, {})
            tries = int(before.get("tries", 0)) + 1
            if tries > TRIES:
                why = f"runs were killed {TRIES} times during it"
                _keep(files.rows, name, ended_early(before, why))
                continue
            _keep(files.rows, name, before | {"state": "begun", "tries": tries})
            others = len(wanted) - place - 1
            spare = left + options.later_s - options.reserve_s * (others + 1)
            layers_s = max(2.0, min(options.most_s, spare, left - options.reserve_s))
            started = time.monotonic()
            try:
                row = _row(name, store, options, layers_s)
            except Exception as error:  # one model must not take the others with it
                row = {"error": f"{type(error).__name__}: {str(error).strip()[:300]}"}
            row["seconds"] = round(time.monotonic() - started, 1)
            _keep(files.rows, name, row)
            print(f"{name}: {_said(row)}", flush=True)
            _forget(options.device)


def _row(name: str, store: Any, options: argparse.Namespace, layers_s: float) -> dict[str, Any]:
    from bounds_rows import algorithms_row, claims_row, model_row

    if name == CLAIMS:
        return claims_row(store, options.device)
    if name == ALGORITHMS:
        return algorithms_row(store, options.device, 180.0)
    begin = time.monotonic()
    model, inputs = built(name, options.device)
    built_s = round(time.monotonic() - begin, 2)
    row = model_row(name, model, inputs, store, options.device, layers_s, options.profile_s)
    row["steps_s"]["build"] = built_s
    return row


def _said(row: Mapping[str, Any]) -> str:
    if "error" in row:
        return f"{row['error']} after {row['seconds']} s"
    if "bounds" not in row:
        return f"done in {row['seconds']} s"
    left = f", left {row['left']}" if row["left"] else ""
    return f"ratio {row['ratio']} in {row['seconds']} s {row['steps_s']}{left}"


def built(name: str, device: str) -> tuple[Any, Any]:
    """A model with its inputs, by `paper/NAME` or `zoo/NAME`."""
    import torch
    import zoo

    kind, _, bare = name.partition("/")
    if kind == "zoo":
        entry = zoo.ZOO[bare]
        return zoo.target(entry, entry.batch if device == "cuda" else 1, device)
    from torchvision import models

    pixels = 299 if bare == "inception_v3" else 224
    extra = {"init_weights": False} if bare in {"googlenet", "inception_v3"} else {}
    with torch.device(device):
        model = models.get_model(bare, weights=None, **extra).eval().requires_grad_(False)
        return model, (torch.rand(1, 3, pixels, pixels),)


def _forget(device: str) -> None:
    gc.collect()
    if device == "cuda":
        import torch

        torch.cuda.empty_cache()


def _rows(path: Path) -> dict[str, Any]:
    try:
        return dict(json.loads(path.read_text(encoding="utf-8")))
    except FileNotFoundError:
        return {}


def _keep(path: Path, name: str, row: Mapping[str, Any]) -> None:
    """Write the file whole: what stops this leaves the file as it was before."""
    rows = _rows(path) | {name: dict(row)}
    partial = path.with_name(path.name + ".partial")
    path.parent.mkdir(parents=True, exist_ok=True)
    partial.write_text(json.dumps(rows, indent=1) + "\n", encoding="utf-8")
    partial.replace(path)


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--device", default="cuda", choices=("cuda", "cpu"))
    parser.add_argument(
        "--folder", type=Path, default=Path("bounds"), help="for bounds.json and bounds.sqlite"
    )
    parser.add_argument("--output", type=Path, default=None, help="another file for the results")
    parser.add_argument(
        "--models", default="", help=f"{CLAIMS}, {ALGORITHMS}, paper/NAME, zoo/NAME; with commas"
    )
    parser.add_argument("--budget-s", type=float, default=560.0, help="seconds for this run")
    parser.add_argument("--later-s", type=float, default=0.0, help="seconds for runs after it")
    parser.add_argument(
        "--reserve-s", type=float, default=9.0, help="seconds kept for each model still to come"
    )
    parser.add_argument(
        "--most-s", type=float, default=75.0, help="seconds for the layers of one model at most"
    )
    parser.add_argument("--profile-s", type=float, default=3.0, help="seconds for a model's rounds")
    parser.add_argument(
        "--complete", action="store_true", help="measure what earlier runs left of models too"
    )
    parser.add_argument("--page", type=Path, default=None, help="write the figures into this page")
    parser.add_argument(
        "--applied",
        type=Path,
        default=Path("benchmarks/results/what_if_h200.json"),
        help="what benchmarks/what_if.py measured, for the page",
    )
    parser.add_argument("--worker", action="store_true", help=argparse.SUPPRESS)
    return parser.parse_args()


if __name__ == "__main__":
    main()
