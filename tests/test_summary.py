"""The answers to a reader's questions: one structure of values, shown in five forms."""

from __future__ import annotations

import json
import re
import shlex
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from captures import gpu_profile, profile_without, wide_profile
from typer.testing import CliRunner

import xsp
from xsp import analysis
from xsp.bounds import findings
from xsp.cli.application import app
from xsp.report.as_json import AGENT_BYTES, for_agent, report_json, summary_dict
from xsp.report.markdown import summary_markdown
from xsp.report.page import report_html
from xsp.report.sentences import footnote, sections
from xsp.report.text import profile_text
from xsp.summary.values import Cost, Summary

NAMES = ("resnet50", "transformer", "train_step")
QUESTIONS = ["latency", "bound", "places", "try", "profiler", "conditions"]


@pytest.fixture(scope="module")
def summaries(profiles: dict[str, xsp.Profile]) -> dict[str, Summary]:
    """What the bundled captures say."""
    return {name: prof.summary() for name, prof in profiles.items()}


@pytest.mark.parametrize("name", NAMES)
def test_values_are_those_of_the_tables(
    name: str, profiles: dict[str, xsp.Profile], summaries: dict[str, Summary]
) -> None:
    """Latency, busy time, the costliest layer with its parts, and what rungs add are the numbers
    of the profile's own tables.
    """
    prof, told = profiles[name], summaries[name]
    assert (told.latency.ms, told.latency.half_width_ms) == (prof.latency_ms, prof.latency_ci_ms)
    assert told.bound.busy_ms == prof.tree()["device_ms"].iloc[0]
    layers = analysis.layer_information(prof).nlargest(5, "latency_ms")
    assert [cost.name for cost in told.places.layers.costs] == layers["name"].tolist()
    first, row = told.places.layers.costs[0], layers.iloc[0]
    assert (first.ms, first.half_width_ms) == (row["latency_ms"], row["latency_ci_ms"])
    assert first.busy_ms == min(row["device_ms"], row["latency_ms"])
    assert first.busy_ms + first.waiting_ms == pytest.approx(first.ms)
    added = prof.overhead()
    added = added[added["level"] == "MODEL"]
    assert [rung.added_ms for rung in told.profiler.rungs] == added["added_ms"].tolist()


@pytest.mark.parametrize("name", NAMES)
def test_what_is_busy_and_what_waits_adds_up(name: str, summaries: dict[str, Summary]) -> None:
    """Types of layers cost what their layers do, busy and waiting apart, and in a program that the
    host bounds most of the cost is waiting.
    """
    places = summaries[name].places
    for cost in places.types.costs:
        assert cost.busy_ms + cost.waiting_ms == pytest.approx(cost.ms)
    largest = places.types.costs[0]
    assert largest.waiting_ms > 0.4 * largest.ms
    assert all(cost.waiting_ms != cost.waiting_ms for cost in places.kernels.costs)


def test_layers_are_as_many_as_are_ranked(
    profiles: dict[str, xsp.Profile], summaries: dict[str, Summary]
) -> None:
    """The number of layers is that of the ranking and of the analyses: ResNet-50's ReLUs, of which
    each has two rows in the hierarchy, count once.
    """
    for name, summary in summaries.items():
        assert summary.counts.layers == summary.places.layers.of
        assert summary.counts.layers == len(analysis.layer_information(profiles[name]))
    assert summaries["resnet50"].counts.layers == 143


def test_shares_say_of_what_they_are(summaries: dict[str, Summary]) -> None:
    """Shares are of the corrected latency; without one they are of the traced runs, whose latency
    is not the one that the table begins with, and the footnote says so.
    """
    told = summaries["resnet50"]
    traced = replace(told, profiler=replace(told.profiler, corrected=False))
    assert "part of the latency, the GPU's" in footnote(told)
    assert "part of the latency of the runs that were traced, the GPU's" in footnote(traced)


def test_a_rung_within_noise_is_said_to_be(summaries: dict[str, Summary]) -> None:
    """GPT-2's rung M/L/Lib added -4.0 % ± more than that: the text says that it is noise, and does
    not of rungs whose interval is without 0.
    """
    told = summaries["transformer"]
    noise = {rung.name: rung.within_noise for rung in told.profiler.rungs}
    assert noise == {"M/L": False, "M/L/Lib": True, "M/L/Lib/K": False}
    (tracing,) = [
        fact.sentence
        for section in sections(told)
        for fact in section.facts
        if fact.heading == "tracing"
    ]
    assert "M/L/Lib -4.0% within noise, M/L/Lib/K" in tracing
    assert tracing.count("within noise") == 1


def test_nothing_is_ranked_whose_interval_is_wider_than_it(
    profiles: dict[str, xsp.Profile],
) -> None:
    """Layers of a training step whose interval is wider than what they cost are among the largest
    nowhere, even where all are asked for; that they were left out is said, and the table marks
    their shares and draws no bar.
    """
    prof = profiles["train_step"]
    layers = analysis.layer_information(prof)
    cost, half = layers["latency_ms"], layers["latency_ci_ms"]
    doubtful = layers[(cost > 0) & (half >= cost)]
    assert len(doubtful) > 10
    ranking = prof.summary(1000).places.layers
    assert ranking.not_known == len(doubtful)
    assert len(ranking.costs) + ranking.not_known + int((cost == 0).sum()) == len(layers)
    shown = {(cost.name, cost.backward) for cost in ranking.costs}
    assert not shown & set(zip(doubtful["name"], doubtful["phase"] == "backward", strict=True))
    text = profile_text(prof, width=120, rows=3000)
    sentence = f"{len(doubtful)} not ranked, their intervals are wider than they are"
    assert sentence in " ".join(text.split())
    marked = [line for line in text.splitlines() if "%?" in line]
    assert len(marked) >= len(doubtful)
    assert not any("█" in line for line in marked)


@pytest.mark.parametrize("name", NAMES)
def test_five_forms_have_the_same_sentences(name: str, profiles: dict[str, xsp.Profile]) -> None:
    """Terminal, notebook, page and Markdown show every sentence of the questions they have, in the
    same order, and JSON the values that they are made of.
    """
    prof = profiles[name]
    told = prof.summary(3)
    found = sections(told)
    assert [section.key for section in found] == QUESTIONS
    facts = [fact for section in found if section.key != "try" for fact in section.facts]
    text = _squeezed(profile_text(prof, width=100))
    positions = [text.index(_squeezed(fact.sentence)) for fact in facts]
    assert positions == sorted(positions)
    notebook = _squeezed(_without_tags(prof._repr_html_() or ""))
    assert all(_squeezed(fact.sentence) in notebook for fact in facts if fact.heading != "latency")
    markdown = summary_markdown(told)
    assert [line for line in markdown.splitlines() if line.startswith("## ")] == [
        f"## {section.question}" for section in found
    ]
    values = json.loads(report_json(prof))
    assert values["latency"]["ms"] == told.latency.ms
    names = [each["name"] for each in values["places"]["layers"]["costs"]]
    whole = prof.summary(len(names))
    assert names == [cost.name for cost in whole.places.layers.costs]
    assert names[:3] == [cost.name for cost in told.places.layers.costs]


def test_the_page_has_the_questions_in_order(profiles: dict[str, xsp.Profile]) -> None:
    """Headings of the report are the reader's questions, what to try before the details."""
    page = report_html(profiles["resnet50"])
    headings = re.findall(r"<h2[^>]*>(.*?)</h2>", page)
    wanted = ["What bounds it", "Where the time goes", "What to try", "Layers", "Kernels"]
    places = [headings.index(heading) for heading in wanted]
    assert places == sorted(places)
    assert headings.index("How much of this is the profiler") > max(places)


def _squeezed(text: str) -> str:
    return re.sub(r"\s+", "", text)


def _without_tags(html: str) -> str:
    from html import unescape

    return unescape(re.sub(r"<(style|script).*?</\1>|<[^>]+>", " ", html, flags=re.DOTALL))


@pytest.mark.parametrize("name", NAMES)
def test_json_names_what_is_not_known_null(
    name: str, profiles: dict[str, xsp.Profile], summaries: dict[str, Summary]
) -> None:
    """The JSON is valid without NaN, and says of each rung whether it is noise."""
    values = json.loads(report_json(profiles[name]), parse_constant=pytest.fail)
    assert values["format"] == "xsp-report"
    assert values["places"]["kernels"]["costs"][0]["waiting_ms"] is None
    assert [rung["within_noise"] for rung in values["profiler"]["rungs"]] == [
        rung.within_noise for rung in summaries[name].profiler.rungs
    ]
    without = summary_dict(profile_without("KERNEL", "no GPU here").summary())
    assert without["bound"]["busy_ms"] is None
    assert without["counts"]["kernels"] is None


@pytest.mark.parametrize("name", NAMES)
def test_an_agent_gets_what_to_do_in_six_kilobytes(
    name: str, summaries: dict[str, Summary]
) -> None:
    """Each finding has its number, its interval and a command, and what is not known has what would
    settle it.
    """
    text = for_agent(summaries[name], "a b.xsp")
    assert len(text.encode()) < 6000
    told = json.loads(text)
    assert told["latency_ms"] == pytest.approx(summaries[name].latency.ms, rel=1e-3)
    tries = [each for each in told["findings"] if "gain_ms" in each]
    assert len(tries) == len(summaries[name].tries)
    assert all(each["half_width_ms"] < each["gain_ms"] for each in tries)
    assert all(each["check"].startswith(("python -c", "xsp ")) for each in tries)
    assert all(each["what"] and each["settle"] for each in told["not_known"])
    noise = [each["what"] for each in told["not_known"] if "within noise" in each["what"]]
    assert len(noise) == sum(rung.within_noise for rung in summaries[name].profiler.rungs)


def test_commands_for_an_agent_run(
    profiles: dict[str, xsp.Profile],
    summaries: dict[str, Summary],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The command beside a finding opens the capture and predicts the gain that it names."""
    first = json.loads(for_agent(summaries["transformer"], "a.xsp"))["findings"][0]
    python, option, code = shlex.split(first["check"])
    assert (python, option) == ("python", "-c")
    opened: list[Any] = []
    printed: list[Any] = []

    def load(path: str) -> xsp.Profile:
        opened.append(path)
        return profiles["transformer"]

    monkeypatch.setattr(xsp, "load", load)
    exec(code, {"print": printed.append})
    assert opened == ["a.xsp"]
    assert printed[0].gain_ms == pytest.approx(first["gain_ms"], rel=0.3)


def test_however_much_there_is_to_say_an_agent_gets_six_kilobytes() -> None:
    """What does not fit is left out from the end and counted."""
    told = wide_profile(50).summary()
    cost = Cost("layer" * 60, "Linear", False, 1, 1.0, 0.1, 0.5, 0.5, 0.01)
    layers = replace(told.places.layers, costs=(cost,) * 80, of=80)
    many = replace(
        told,
        places=replace(told.places, layers=layers),
        doubts=tuple(f"{number} {'warning ' * 60}" for number in range(30)),
    )
    text = for_agent(many, "a.xsp")
    assert len(text.encode()) < AGENT_BYTES
    assert json.loads(text)["left_out"] > 0


def test_markdown_shows_hostile_names_as_they_are() -> None:
    """A name with markup, pipes and line breaks stays one cell of text."""
    text = summary_markdown(gpu_profile(name="<b>|x|\n# y").summary())
    assert text.startswith("# &lt;b&gt;\\|x\\|\\\\n# y")
    rows = [line for line in text.splitlines() if line.startswith("| ")]
    assert {len(re.findall(r"(?<!\\)\|", line)) for line in rows} == {9}


def test_commands_print_them(tmp_path: Path) -> None:
    """`xsp report` prints JSON, Markdown and the agent's form, one at a time."""
    capture = str(gpu_profile().save(tmp_path / "a.xsp"))
    runner = CliRunner()
    values = json.loads(runner.invoke(app, ["report", capture, "--json"]).output)
    assert values["name"] == "Net"
    assert runner.invoke(app, ["report", capture, "--md"]).output.startswith("# Net\n")
    agent = json.loads(runner.invoke(app, ["report", capture, "--for-agent"]).output)
    assert agent["latency_ms"] == 1.0
    both = runner.invoke(app, ["report", capture, "--json", "--md"])
    assert both.exit_code != 0


def test_types_without_time_are_not_called_doubtful() -> None:
    """A cost of nothing is known to be nothing."""
    told = gpu_profile().summary()
    assert told.places.layers.not_known == 0
    assert np.isfinite([cost.ms for cost in told.places.layers.costs]).all()


def test_what_to_try_is_not_asked_of_too_many_layers(
    monkeypatch: pytest.MonkeyPatch, profiles: dict[str, xsp.Profile]
) -> None:
    """A summary of very many layers is there at once, and says what was left out of it."""
    prof = profiles["resnet50"]
    assert prof.summary().tries
    monkeypatch.setattr(findings, "MOST_LAYERS", len(prof.table("layers")) - 1)
    summary = prof.summary()
    assert not summary.tries
    assert summary.doubts[-1].startswith("what to try first was not worked out")
