"""`--json` means one thing in every command: JSON on standard output, and nothing else there."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner, Result

from xsp.cli.application import app

CAPTURE = str(Path(__file__).parents[1] / "examples" / "captures" / "models" / "alexnet.xsp")


@pytest.fixture(scope="module")
def commands(tmp_path_factory: pytest.TempPathFactory) -> dict[str, list[str]]:
    """By name, the arguments of commands that read a capture and measure nothing."""
    place = str(tmp_path_factory.mktemp("database") / "layers.sqlite")
    return {
        "report": [CAPTURE],
        "compare": [CAPTURE, CAPTURE],
        "graph": [CAPTURE],
        "bound": [CAPTURE, "--no-measure", "--device", "cpu", "--database", place],
    }


WRITERS = ("compare", "graph", "bound")


def ran(*arguments: str) -> Result:
    return CliRunner().invoke(app, arguments, catch_exceptions=False)


def of(text: str) -> Any:
    """What does not differ from run to run."""
    return {name: value for name, value in json.loads(text).items() if name != "created"}


@pytest.mark.parametrize("name", ["report", *WRITERS])
def test_json_alone_is_all_that_is_printed(name: str, commands: dict[str, list[str]]) -> None:
    """Standard output is one JSON document."""
    assert json.loads(ran(name, *commands[name], "--json").stdout)


@pytest.mark.parametrize("name", WRITERS)
@pytest.mark.parametrize("form", ["--json {}", "--json={}"])
def test_a_file_after_json_is_written_as_before_and_deprecated(
    name: str, form: str, commands: dict[str, list[str]], tmp_path: Path
) -> None:
    """What `--json FILE` wrote it writes for a release more, beside what people read, and
    standard error says what to use.
    """
    new, old = tmp_path / "new.json", tmp_path / "old.json"
    asked = ran(name, *commands[name], "-o", str(new))
    found = ran(name, *commands[name], *form.format(old).split(" "))
    assert found.exit_code == asked.exit_code
    assert of(old.read_text()) == of(new.read_text())
    assert found.stdout.replace(str(old), "") == asked.stdout.replace(str(new), "")
    assert f"use -o {old}" in found.stderr
    assert "deprecated" not in asked.stderr


def test_a_form_for_people_and_json_are_not_mixed() -> None:
    """Markdown and JSON cannot both be printed."""
    with pytest.raises(Exception, match="ask for one of them"):
        ran("compare", CAPTURE, CAPTURE, "--md", "--json")
