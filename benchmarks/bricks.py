"""DLBricks over pools of models: how near constructed latencies are, and how much sooner bricks are
measured than models.

    python benchmarks/bricks.py --pool small --output bricks_small_cpu.json --database bricks.sqlite
    python benchmarks/bricks.py --pool diverse --repeat 3 --output bricks_cpu.json --budget-s 3000
    python benchmarks/bricks.py --page docs/bricks.md --output bricks_small_cpu.json

Models are built from configurations with random weights; nothing is downloaded. Each whole
measurement (`--repeat`) has a database of its own, and models are taken `--together` at a time, in
turn with their bricks. A run that is ended, or whose budget is spent, goes on where it was: what a
database has complete is not measured again, and a model that is in the JSON is skipped.

The rule (granularity and constructor) is chosen on every other model and judged on the rest, by the
geometric mean of constructed over measured latency; the median of the measurements counts.
"""

from __future__ import annotations

import argparse
import gc
import json
import math
import statistics
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

BEGIN, END = "<!-- figures -->", "<!-- end of figures -->"
GRANULARITIES = (1, 3, 5, 10)
PAPER = {
    "normalised latency, geometric mean, c5.2xlarge, G = 1": 0.918,
    "normalised latency, lowest and highest": "0.829 to 0.981",
    "speed-up of benchmarking, c5.xlarge, G = 1": 4.4,
    "speed-up of benchmarking, c5.xlarge, G = 10 (read off a chart)": 3.1,
    "unique layers of 10,815": 0.14,
}
"""DLBricks, ICPE 2020, section IV: 50 MXNet models on four EC2 hosts."""
SMALL = (
    "example/resnet50",
    "example/gpt2",
    "own/unet",
    "own/recommender",
    "own/lstm",
    "own/residual_4",
    "own/residual_8",
    "own/encoder",
)
"""Models that need torch only."""
FAMILIES = (
    *(f"torchvision/resnet{depth}" for depth in (18, 34, 50, 101, 152)),
    *(f"torchvision/vgg{depth}" for depth in (11, 13, 16, 19)),
    *(f"torchvision/vgg{depth}_bn" for depth in (11, 13, 16, 19)),
    *(f"torchvision/densenet{depth}" for depth in (121, 161, 169, 201)),
    *(f"torchvision/squeezenet1_{number}" for number in (0, 1)),
    "torchvision/mobilenet_v2",
    "torchvision/googlenet",
    "torchvision/inception_v3",
    "torchvision/alexnet",
    "torchvision/wide_resnet50_2",
    "torchvision/resnext50_32x4d",
)
"""Families as alike as the paper's."""
TEN = (
    "zoo/resnet50",
    "zoo/mobilenet_v2",
    "zoo/bert_base",
    "zoo/vit_b_16",
    "zoo/gpt2",
    "zoo/densenet121",
    "zoo/efficientnet_b0",
    "zoo/unet_diffusion",
    "zoo/lstm",
    "zoo/deit_small",
)
"""For a minute of a GPU."""


def pool(name: str) -> list[str]:
    """Names of the models of a pool; `diverse` is the zoo, with five tasks and 50 models."""
    if name == "diverse":
        from zoo import ZOO

        return [f"zoo/{each}" for each in ZOO]
    named = {"small": SMALL, "families": FAMILIES, "ten": TEN}
    if name not in named:
        raise SystemExit(f"--pool must be small, families, ten or diverse, not {name!r}")
    return list(named[name])


def built(name: str, device: str, batch: int) -> tuple[Any, Any]:
    """A model in evaluation mode and its inputs."""
    import torch

    torch.manual_seed(0)
    source, _, own = name.partition("/")
    if source == "zoo":
        from zoo import ZOO, target

        return target(ZOO[own], batch, device)
    if source == "torchvision":
        from torchvision import models

        extra = {"aux_logits": False, "init_weights": False}
        options = extra if own in {"googlenet", "inception_v3"} else {}
        module = models.get_model(own, weights=None, **options)
        pixels = 299 if own == "inception_v3" else 224
        inputs: Any = torch.rand(batch, 3, pixels, pixels)
    else:
        module, inputs = _own(own, batch)
    module = module.eval().requires_grad_(False).to(device)
    moved = [each.to(device) for each in ([inputs] if torch.is_tensor(inputs) else inputs)]
    return module, tuple(moved)


def _own(name: str, batch: int) -> tuple[Any, Any]:
    """Models of this project, of a size that a CPU runs in some ten milliseconds."""
    import torch
    from own_models import LSTMLanguageModel, Recommender, UNet
    from torch import nn

    if name in {"resnet50", "gpt2"}:
        return _example(name, batch)
    if name.startswith("residual_"):
        return _residual(int(name.rpartition("_")[2])), torch.rand(batch, 3, 112, 112)
    if name == "unet":
        text, step = torch.randn(batch, 77, 768), torch.full((batch,), 10)
        return UNet(width=64), (torch.randn(batch, 4, 32, 32), step, text)
    if name == "recommender":
        model = Recommender(tables=8, rows=20_000)
        return model, (torch.rand(batch, 13), torch.randint(0, 20_000, (8, batch, 10)))
    if name == "lstm":
        return LSTMLanguageModel(width=512), torch.randint(0, 10_000, (batch, 32))
    layer = nn.TransformerEncoderLayer(384, 6, 1536, activation="gelu", batch_first=True)
    return nn.TransformerEncoder(layer, 6), torch.randn(batch, 128, 384)


def _example(name: str, batch: int) -> tuple[Any, Any]:
    import sys

    import torch

    sys.path.insert(0, str(Path(__file__).parent.parent / "examples"))
    if name == "resnet50":
        from resnet50 import ResNet50

        return ResNet50(), torch.rand(batch, 3, 224, 224)
    from transformer import GPT2

    return GPT2(), torch.randint(0, 1000, (batch, 64))


def _residual(blocks: int) -> Any:
    import sys

    sys.path.insert(0, str(Path(__file__).parent.parent / "examples"))
    from shared_bricks import Residual

    return Residual(blocks)


def main() -> None:
    options = _options()
    if options.page is not None:
        write_page(options.output, options.page)
        return
    begin = time.monotonic()
    names = options.models.split(",") if options.models else pool(options.pool)
    for number in range(options.repeat):
        for chunk in _chunks(names, options.together):
            left = options.budget_s - (time.monotonic() - begin)
            if left < 5:
                print("the budget is spent; run it again to go on")
                return
            measure(chunk, number, options, left)
    kept = _read(options.output)
    kept["summary"] = summary(kept["measurements"])
    kept["pool"] = pool_figures(names, options)
    _write(options.output, kept)
    _draw(kept, options.output.with_suffix(".html"))
    print(json.dumps({"summary": kept["summary"], "pool": kept["pool"]}, indent=1))


def _chunks(names: Sequence[str], size: int) -> Iterator[list[str]]:
    for start in range(0, len(names), size):
        yield list(names[start : start + size])


def _place(options: argparse.Namespace, number: int) -> Path:
    base: Path = options.database
    return base.with_name(f"{base.stem}-{number}{base.suffix or '.sqlite'}")


def measure(names: list[str], number: int, options: argparse.Namespace, left: float) -> None:
    """Measure some models in turn with their bricks, unless the JSON has them."""
    kept = _read(options.output)
    done = kept["measurements"].setdefault(str(number), {})
    todo = [name for name in names if not done.get(name, {}).get("complete")]
    if not todo:
        return
    started = time.monotonic()
    budget = min(left, options.group_s) if options.group_s else left
    found = _found(todo, number, options, budget, run=True)
    rows = found.to_dict()
    complete = _complete(found)
    for name in todo:
        mine = [row for row in rows["models"] if row["model"] == name]
        done[name] = {"rows": mine, "failure": rows["failures"].get(name, ""), "complete": complete}
    kept["machine"] = rows["machine"]
    kept["notes"] = sorted({*kept.get("notes", []), *rows["notes"]})
    seconds = kept.setdefault("seconds", {})
    seconds[str(number)] = seconds.get(str(number), 0.0) + time.monotonic() - started
    _write(options.output, kept)
    del found
    gc.collect()


def _found(
    names: list[str], number: int, options: argparse.Namespace, budget_s: float, *, run: bool
) -> Any:
    import xsp

    targets, missing = _targets(names, options)
    found = xsp.bricks(
        *targets.values(),
        names=list(targets),
        database=_place(options, number),
        granularity=GRANULARITIES,
        statistics=options.statistics,
        overlap=options.overlap,
        bracket=options.bracket and run,
        threads=options.threads,
        budget_s=budget_s,
        run=run,
        seed=number,
    )
    return replace(found, failures={**found.failures, **missing})


def _targets(
    names: list[str], options: argparse.Namespace
) -> tuple[dict[str, Any], dict[str, str]]:
    """Models with their inputs, and why others could not be built."""
    targets: dict[str, Any] = {}
    missing: dict[str, str] = {}
    for name in names:
        try:
            targets[name] = built(name, options.device, options.batch)
        except Exception as error:  # a package that is not there, for example
            missing[name] = f"{type(error).__name__}: {error}"[:300]
    return targets, missing


def _complete(found: Any) -> bool:
    """Whether nothing of these models would be measured by another call."""
    return all(record.complete for record in found.records.values())


def pool_figures(names: list[str], options: argparse.Namespace) -> list[dict[str, Any]]:
    """Unique shares, speed-up and what each model has of its own, of the first measurement."""
    found = _found(names, 0, options, 0.0, run=False)
    alone = found.leave_one_out(1)
    rows: list[dict[str, Any]] = found.to_dict()["pools"]
    rows[0]["own_share_of_bricks"] = float((alone["own"] / alone["bricks"]).mean())
    rows[0]["shared_share_of_latency"] = float(alone["shared"].mean())
    return rows


def summary(measurements: Mapping[str, Mapping[str, Any]]) -> dict[str, Any]:
    """For every granularity and rule the geometric means of each measurement; the rule that every
    other model chooses, and how near it is on the rest.
    """
    ratios = _ratios(measurements)
    names = sorted({name for each in ratios.values() for name in each})
    choosing, judged = names[::2], names[1::2]
    every = {_key(key): _geometric(each, names) for key, each in ratios.items()}
    chosen = min(
        ratios,
        key=lambda key: abs(math.log(_geometric(ratios[key], choosing) or 1e9)),
        default=None,
    )
    if chosen is None:
        return {"models": 0}
    own = ratios[chosen]
    off = {name: round(own[name], 3) for name in names if abs(own.get(name, 1.0) - 1) > 0.1}
    return {
        "models": len(names),
        "measurements": len(measurements),
        "geometric_mean": every,
        "chosen": _key(chosen),
        "chosen_on": _geometric(own, choosing),
        "judged_on_the_rest": _geometric(own, judged),
        "beyond_10_percent": off,
        "paper": PAPER,
    }


def _ratios(
    measurements: Mapping[str, Mapping[str, Any]],
) -> dict[tuple[int, str], dict[str, float]]:
    """By granularity and rule, the median over measurements of each model's normalised latency."""
    found: dict[tuple[int, str], dict[str, list[float]]] = {}
    for models in measurements.values():
        for name, each in models.items():
            for row in each["rows"]:
                if row["normalised"] is not None and row["rule"] != "critical path":
                    own = found.setdefault((row["granularity"], row["rule"]), {})
                    own.setdefault(name, []).append(row["normalised"])
    return {
        key: {name: statistics.median(values) for name, values in each.items()}
        for key, each in found.items()
    }


def _geometric(ratios: Mapping[str, float], names: Sequence[str]) -> float | None:
    logs = [math.log(ratios[name]) for name in names if name in ratios]
    return math.exp(sum(logs) / len(logs)) if logs else None


def _key(key: tuple[int, str]) -> str:
    return f"G = {key[0]}, {key[1]}"


def _read(path: Path) -> dict[str, Any]:
    if path.exists():
        kept: dict[str, Any] = json.loads(path.read_text())
        return kept
    return {"measurements": {}}


def _write(path: Path, kept: Mapping[str, Any]) -> None:
    path.write_text(json.dumps(kept, indent=1) + "\n")


def _draw(kept: Mapping[str, Any], path: Path) -> None:
    """The paper's figures from the last measurement."""
    import pandas as pd

    from xsp.brickwork import figures

    last = list(kept["measurements"].values())[-1]
    models = pd.DataFrame([row for each in last.values() for row in each["rows"]])
    drawn = [figures.normalised(models), figures.speedup(pd.DataFrame(kept["pool"]))]
    parts = [
        each.to_html(full_html=False, include_plotlyjs=place == 0)
        for place, each in enumerate(drawn)
    ]
    path.write_text("<!doctype html><meta charset=utf-8>" + "".join(parts))


def write_page(output: Path, page: Path) -> None:
    """Put the figures of a JSON into a page of the documentation, between two marks."""
    text = page.read_text()
    begin, end = text.index(BEGIN) + len(BEGIN), text.index(END)
    page.write_text(f"{text[:begin]}\n{_figures(json.loads(output.read_text()))}\n{text[end:]}")


def _figures(kept: Mapping[str, Any]) -> str:
    found = kept["summary"]
    machine = kept["machine"]
    name = machine.get("gpu") or machine.get("cpu")
    lines = [
        f"{found['models']} models on {name}, torch {machine['torch']}, "
        f"{found['measurements']} measurement(s); constructed over measured latency:",
        "",
        "| granularity, rule | geometric mean |",
        "|---|---|",
        *(f"| {key} | {each:.3f} |" for key, each in found["geometric_mean"].items() if each),
        "",
        f"Chosen on every other model: {found['chosen']} ({found['chosen_on']:.3f} there, "
        f"{found['judged_on_the_rest']:.3f} on the rest).",
        "",
        "| granularity | bricks | unique | unique share | speed-up |",
        "|---|---|---|---|---|",
        *(
            f"| {row['granularity']} | {row['bricks']} | {row['unique']} | "
            f"{row['unique_share']:.1%} | {row['speedup']:.2f} |"
            for row in kept["pool"]
            if row["speedup"] is not None
        ),
    ]
    return "\n".join(lines)


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--pool", default="small", help="small, families, ten or diverse")
    parser.add_argument("--models", default="", help="names with commas, instead of a pool")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--batch", type=int, default=1)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--statistics", default="driver")
    parser.add_argument("--repeat", type=int, default=1)
    parser.add_argument("--together", type=int, default=8)
    parser.add_argument("--group-s", type=float, default=0.0, help="seconds at most for a group")
    parser.add_argument("--budget-s", type=float, default=600.0)
    parser.add_argument("--overlap", action="store_true")
    parser.add_argument("--bracket", action="store_true")
    parser.add_argument("--database", type=Path, default=Path("bricks.sqlite"))
    parser.add_argument("--output", type=Path, default=Path("bricks.json"))
    parser.add_argument("--page", type=Path)
    return parser.parse_args()


if __name__ == "__main__":
    main()
