"""Flame graphs for other viewers: folded stacks and speedscope's format."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import jsonschema
import pytest
from captures import HOSTILE_LAYER, gpu_profile, profile_without
from typer.testing import CliRunner

import xsp
from xsp.cli.application import app
from xsp.export.flame.stacks import IDLE

SCHEMA = json.loads((Path(__file__).parent / "schemas" / "speedscope.json").read_text())
NAMES = ("resnet50", "transformer", "train_step")


def folded(prof: xsp.Profile, folder: Path) -> dict[str, int]:
    """Weights by stack, read as flamegraph.pl reads a line: the number behind the last blank."""
    lines = prof.to_folded(folder / "x.folded").read_text().splitlines()
    found = {}
    for line in lines:
        match = re.fullmatch(r"(.+) (\d+)", line)
        assert match
        found[match[1]] = int(match[2])
    assert len(found) == len(lines)
    return found


@pytest.mark.parametrize("name", NAMES)
def test_folded_stacks_add_up_to_the_latency_of_the_tree(
    name: str, profiles: dict[str, xsp.Profile], tmp_path: Path
) -> None:
    """All weights make the model's latency, those below a layer what the layer costs, and what is
    not idle is the GPU's busy time.
    """
    prof = profiles[name]
    tree = prof.tree()
    stacks = folded(prof, tmp_path)
    rounding = len(tree)
    assert sum(stacks.values()) == pytest.approx(tree["latency_ms"][0] * 1e6, abs=rounding)
    busy = sum(weight for stack, weight in stacks.items() if not stack.endswith(IDLE))
    assert busy == pytest.approx(tree["device_ms"][0] * 1e6, abs=rounding)
    first = tree[(tree["level"] == "LAYER") & (tree["depth"] == 1) & (tree["phase"] == "forward")]
    alone = first[~first["name"].duplicated(keep=False)].iloc[0]
    prefix = f"{tree['name'][0]};{alone['name'].replace(';', ':')};"
    below = sum(weight for stack, weight in stacks.items() if stack.startswith(prefix))
    assert below == pytest.approx(alone["latency_ms"] * 1e6, abs=rounding)


def test_folded_stacks_of_a_model_on_the_host(tmp_path: Path) -> None:
    """Without kernels the weights are the host's time, and no frame speaks of a GPU."""
    prof = profile_without("KERNEL", "no GPU here")
    stacks = folded(prof, tmp_path)
    assert not any(IDLE in stack for stack in stacks)
    assert sum(stacks.values()) == pytest.approx(prof.tree()["latency_ms"][0] * 1e6, abs=50)


def test_names_cannot_break_a_line(tmp_path: Path) -> None:
    """A name with semicolons, blanks and line breaks stays one frame of one line."""
    prof = gpu_profile(name="Net;of\ntwo 7")
    assert {stack.split(";")[0] for stack in folded(prof, tmp_path)} == {"Net:of\\ntwo 7"}
    frames = {frame for stack in folded(prof, tmp_path) for frame in stack.split(";")}
    assert HOSTILE_LAYER.removeprefix("block.").replace(";", ":") in frames


@pytest.mark.parametrize("corrected", [False, True])
@pytest.mark.parametrize("name", NAMES)
def test_speedscope_files_keep_its_schema(
    name: str, corrected: bool, profiles: dict[str, xsp.Profile], tmp_path: Path
) -> None:
    """The file is valid by speedscope's own schema, and its events nest as its importer demands:
    times never go back, and an end is that of the frame that is open.
    """
    written = profiles[name].to_speedscope(tmp_path / "x.json", corrected=corrected)
    document = json.loads(written.read_text())
    jsonschema.validate(document, SCHEMA)
    costs, *tracks = document["profiles"]
    assert costs["endValue"] == sum(costs["weights"])
    assert len(costs["samples"]) == len(costs["weights"])
    assert tracks
    for track in tracks:
        assert_nests(track["events"])


def assert_nests(events: list[dict[str, Any]]) -> None:
    """What speedscope checks when it opens a file."""
    open_: list[int] = []
    last = events[0]["at"]
    for event in events:
        assert event["at"] >= last
        last = event["at"]
        if event["type"] == "O":
            open_.append(event["frame"])
        else:
            assert open_.pop() == event["frame"]
    assert open_ == []


def test_speedscope_has_one_run_track_by_track(
    profiles: dict[str, xsp.Profile], tmp_path: Path
) -> None:
    """A training step has its threads and its streams, with as many kernels as it launches."""
    path = profiles["train_step"].to_speedscope(tmp_path / "x.json")
    _, *tracks = json.loads(path.read_text())["profiles"]
    names = [track["name"] for track in tracks]
    assert names[:2] == ["main thread", "autograd thread 2"]
    on_device = [track for track in tracks if track["name"].startswith("GPU, stream 7")]
    begins = sum(event["type"] == "O" for track in on_device for event in track["events"])
    assert begins == profiles["train_step"].kernel_count


def test_commands_write_them(tmp_path: Path) -> None:
    """`xsp export --to folded` and `--to speedscope` write what the methods write."""
    capture = gpu_profile().save(tmp_path / "a.xsp")
    for to, ending in (("folded", ".folded"), ("speedscope", ".speedscope.json")):
        outcome = CliRunner().invoke(app, ["export", str(capture), "--to", to])
        assert outcome.exit_code == 0, outcome.output
        assert (tmp_path / f"a{ending}").stat().st_size > 100
