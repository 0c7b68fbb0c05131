"""Every option is written once, and is found where people look for it."""

from __future__ import annotations

import inspect
import re
from dataclasses import fields
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from quick import LAYERS
from typer.testing import CliRunner

import xsp
from xsp.cli.application import app
from xsp.levels.counters.metrics import IN_PLACE
from xsp.measuring.options import Keywords, Options, help_of, names, read, textual
from xsp.regression.plan import Plan
from xsp.types import Level

ROOT = Path(__file__).parents[1]


@pytest.mark.parametrize("door", [xsp.measure, xsp.profile], ids=["measure", "profile"])
def test_signature_and_help_list_every_option(door: Any) -> None:
    """Notebooks and `help` show each option with its meaning, beside the target's own arguments."""
    parameters = inspect.signature(door).parameters
    assert [name for name in parameters if name in names()] == list(names())
    assert all(parameters[name].kind is inspect.Parameter.KEYWORD_ONLY for name in names())
    text = xsp.measure.__doc__ or ""
    told = " ".join(text.split())
    assert [name for name in names() if f"{name}: {help_of(name)}" not in told] == []


def test_what_may_be_given_and_what_it_becomes_have_the_same_names() -> None:
    """An option that editors complete exists, and one that exists is completed."""
    assert list(Keywords.__annotations__) == [each.name for each in fields(Options)]


@pytest.mark.parametrize("command", ["profile", "sweep"])
def test_the_command_line_has_every_option_that_is_text(command: str) -> None:
    """`xsp profile --help` and `xsp sweep --help` name them all."""
    shown = re.sub(
        r"\s+", "", CliRunner().invoke(app, [command, "--help"], terminal_width=200).output
    )
    assert [name for name in textual() if f"--{name.replace('_', '-')}" not in shown] == []


def test_the_reference_has_every_option() -> None:
    """The documented meaning of an option is the one that `help` shows."""
    text = (ROOT / "docs" / "reference.md").read_text()
    assert [name for name in names() if f"| `{name}` | {help_of(name)} |" not in text] == []


@pytest.mark.parametrize("name", names())
def test_none_is_the_default(name: str) -> None:
    """A caller can hand on options that it was not given."""
    assert Options.of(**{name: None}) == Options()


def test_defaults_pass_their_own_checks() -> None:
    """A default is a value that could be given."""
    given = {each.name: each.default for each in fields(Options)}
    assert Options.of(**given) == Options()
    assert Options().caches == IN_PLACE


@pytest.mark.parametrize(
    ("option", "rule"),
    [
        ({"seed": 1.5}, "seed must be a whole number, not 1.5"),
        ({"nvtx": 1}, "nvtx must be True or False, not 1"),
        ({"serialize": "no"}, "serialize must be True or False, not 'no'"),
        ({"stop": 3}, "stop must be a function of the runs so far, not 3"),
        (
            {"warmup": -1},
            "warmup must be a whole number >= 0, not -1; leave it out for the default",
        ),
    ],
)
def test_a_refusal_has_value_rule_and_way_out(option: dict[str, Any], rule: str) -> None:
    """A value that an option cannot have is refused before anything runs."""
    with pytest.raises(xsp.TargetError, match=re.escape(rule)):
        xsp.measure(lambda: None, **option)


def test_two_ways_to_stop_exclude_each_other() -> None:
    """A rule and a number of rounds cannot both decide."""
    with pytest.raises(xsp.TargetError, match="exclude each other: give only one"):
        Options.of(stop=lambda _runs: None, iterations=3)


def test_operators_are_refused_on_a_separate_ladder_only() -> None:
    """Also where the name of the ladder was read from somewhere; the other levels are traced."""
    assert Options().refused == {}
    assert Options.of(ladder="".join(["ne", "sted"])).refused == {}
    assert list(Options.of(ladder="".join(["sepa", "rate"])).refused) == [Level.OP]


def test_an_option_that_does_not_exist_is_refused() -> None:
    """A misspelt option is named together with those that exist, also where keywords could be the
    target's.
    """
    with pytest.raises(xsp.TargetError, match=r"no option 'iteration'.*iterations"):
        xsp.sweep(lambda _size: None, iteration=3)  # type: ignore[call-arg] # misspelt on purpose


def test_a_marker_with_an_impossible_option_is_refused_before_the_test() -> None:
    """The pytest plugin checks options of measuring when it reads them, not when it measures."""
    with pytest.raises(xsp.TargetError, match=r"iterations must be .*, not 0"):
        Plan.of({"iterations": 0})


def test_the_targets_own_keywords_can_be_called_as_options_are(tmp_path: Path) -> None:
    """`xsp profile` hands a target's keyword on to it, whatever it is called."""
    (tmp_path / "own.py").write_text(
        "from torch import nn, ones\n"
        "class Net(nn.Module):\n"
        "    def forward(self, x, seed):\n"
        "        return x + seed\n"
        "def target():\n"
        "    return Net().eval(), {'x': ones(2), 'seed': ones(2)}\n"
    )
    arguments = ["profile", f"{tmp_path / 'own.py'}", "--iterations", "1", "--quiet"]
    outcome = CliRunner().invoke(app, [*arguments, "--output", str(tmp_path / "own.xsp")])
    assert outcome.exit_code == 0, outcome.output
    assert xsp.load(tmp_path / "own.xsp").name == "Net"


def test_unknown_keywords_are_the_targets() -> None:
    """What is no option goes to the function that is measured."""
    seen: list[int] = []
    xsp.measure(lambda *, size: seen.append(size), size=3, **LAYERS)
    assert set(seen) == {3}


@pytest.mark.parametrize(
    ("name", "text", "value"),
    [
        ("iterations", "3", 3),
        ("budget_s", "2.5", 2.5),
        ("levels", "M/L", "M/L"),
        ("serialize", "", True),
    ],
)
def test_options_are_read_from_text(name: str, text: str, value: Any) -> None:
    """Magics and markers read numbers as numbers, and a switch is on by its name alone."""
    assert read(name, text) == value
    assert type(read(name, text)) is type(value)


def test_text_that_is_no_number_is_refused() -> None:
    """With the option and what was written."""
    with pytest.raises(xsp.TargetError, match="iterations must be a number, not 'many'"):
        read("iterations", "many")


@pytest.mark.parametrize(
    ("option", "taken", "refused"),
    [
        ("iterations", [1, np.int64(7)], [0, True, "1", 1.0]),
        ("warmup", [0, 5], [-1, False, 1.5]),
        ("seed", [-(10**12), 0], [True, 0.5]),
        ("budget_s", [0, 0.5, np.float32(2)], [-0.1, True, "3"]),
        ("nvtx", [True, False, np.bool_(True)], [0, 1, "yes"]),
    ],
)
def test_values_are_taken_up_to_their_bounds(
    option: str, taken: list[Any], refused: list[Any]
) -> None:
    """The least value that makes sense can be given, and numbers of numpy; truth is no number."""
    for value in taken:
        assert getattr(Options.of(**{option: value}), option) == value
    for value in refused:
        with pytest.raises(xsp.TargetError, match=f"{option} must be"):
            Options.of(**{option: value})


def test_one_object_to_restore_is_as_good_as_a_list() -> None:
    """`restore=model` means `restore=(model,)`."""
    one, other = object(), object()
    assert Options.of(restore=one).restore == (one,)
    assert Options.of(restore=[one, other]).restore == (one, other)
    assert Options.of(restore=(one,)).restore == (one,)


def test_options_are_taken_out_of_keywords() -> None:
    """What is left is the target's."""
    keywords = {"iterations": 2, "size": 3, "seed": 4}
    assert Options.taken(keywords) == Options(iterations=2, seed=4)
    assert keywords == {"size": 3}
