"""What a profile says in sentences is what its tables say."""

from __future__ import annotations

from pathlib import Path

import pytest
from captures import LATENCY_NS, gpu_capture, gpu_profile, profile_without

import xsp
from xsp import Profile, analysis
from xsp.report.sentences import sections
from xsp.report.text import profile_text
from xsp.summary.summarizing import summarize
from xsp.words import numbers

CAPTURES = Path(__file__).parent.parent / "examples" / "captures"


def findings(prof: Profile) -> dict[str, str]:
    """What bounds the model and where the time goes: sentences by their headings."""
    told = [each for each in sections(summarize(prof)) if each.key in {"bound", "places"}]
    return {fact.heading: fact.sentence for each in told for fact in each.facts}


def faster(factor: float) -> Profile:
    """The GPU profile with its unprofiled latency divided by a factor: the GPU is busy for more of
    it.
    """
    capture = gpu_capture()
    capture.tables["runs"]["latency_ns"] -= int(LATENCY_NS * (1 - 1 / factor))
    return Profile(capture)


@pytest.mark.parametrize(
    ("factor", "who"),
    [(1.0, "the host: "), (1.4, "the GPU, and the host with it: "), (1.75, "the GPU: it is busy")],
)
def test_bound_follows_the_idle_share(factor: float, who: str) -> None:
    """The host bounds a model whose GPU is idle for 40 % of the latency, the GPU one with less than
    10 %.
    """
    assert findings(faster(factor))["bound by"].startswith(who)


def test_idle_share_and_place_are_the_timelines() -> None:
    """ResNet-50 at batch 32: the idle share is that of the tree, and most of it lies between
    kernels.
    """
    prof = xsp.load(CAPTURES / "h100_resnet50.xsp")
    sentence = findings(prof)["bound by"]
    idle = 1 - prof.tree()["device_ms"].iloc[0] / prof.latency_ms
    assert f"idle for {numbers.percent(idle)} of the latency" in sentence
    assert "of that between kernels" in sentence
    kernels = analysis.kernel_information(prof)
    memory = kernels.loc[kernels["memory_bound"].fillna(False).astype(bool), "latency_ms"].sum()
    assert f"{numbers.percent(memory / kernels['latency_ms'].sum())} is memory-bound" in sentence
    assert sentence.endswith("(analytic FLOPs and bytes)")


def test_estimates_are_named_beside_counted_bytes() -> None:
    """Where the hardware counted bytes and no FLOPs, the sentence on what is memory-bound says that
    FLOPs are not.
    """
    prof = xsp.load(CAPTURES / "models" / "alexnet.xsp")
    assert set(analysis.kernel_information(prof)["source"]) == {"counters", "mixed"}
    assert findings(prof)["bound by"].endswith("(analytic FLOPs)")


def test_largest_of_each_level_are_named_with_their_share() -> None:
    """The first layer, library function and kernel named are the largest of their tables."""
    prof = xsp.load(CAPTURES / "h100_transformer.xsp")
    found = findings(prof)
    layer = analysis.layer_information(prof).nlargest(1, "latency_ms").iloc[0]
    assert found["layers"].startswith(
        f"{layer['name']} ({layer['type']}) {numbers.percent(layer['share'])}"
    )
    call = analysis.library_by_api(prof).nlargest(1, "share").iloc[0]
    assert found["library"].startswith(
        f"{call['name']} ×{call['count']} {numbers.percent(call['share'])}"
    )
    kernel = analysis.kernels_by_name(prof).iloc[0]
    assert (
        f"×{kernel['count']} {numbers.percent(kernel['share'])}" in found["kernels"].split(",")[0]
    )


def test_shares_of_overlapping_kernels_are_explained() -> None:
    """Where kernels of several streams add up to more than the latency the sentence says why;
    elsewhere it does not.
    """
    wav2vec, alexnet = (
        xsp.load(CAPTURES / "models" / f"{name}.xsp") for name in ("wav2vec2_base", "alexnet")
    )
    assert analysis.kernels_by_name(wav2vec)["share"].sum() > 1
    assert "side by side" in findings(wav2vec)["kernels"]
    assert "side by side" not in findings(alexnet)["kernels"]


def test_levels_that_were_not_traced_are_not_spoken_of() -> None:
    """Without kernels there is no sentence on kernels, and none claims that a GPU was idle."""
    found = findings(profile_without("LIBRARY", "no GPU here"))
    assert set(found) == {"bound by", "layers", "types"}
    assert "no work on a GPU was traced" in found["bound by"]


def test_terminal_says_it_above_the_table() -> None:
    """`print(prof)` has the findings between the latency and the table."""
    lines = profile_text(gpu_profile(), width=100).splitlines()
    headings = [line[:10].strip() for line in lines]
    table = headings.index("node")
    assert [
        headings.index(each) < table
        for each in ("bound by", "layers", "types", "library", "kernels")
    ] == [True] * 5
