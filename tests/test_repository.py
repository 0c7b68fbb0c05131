"""What a stranger finds in the repository besides the code."""

from __future__ import annotations

import re
from pathlib import Path

import pandas as pd
import pytest
from captures import gpu_capture
from ruamel.yaml import YAML

import xsp
from xsp.analysis.sentences import Sentences
from xsp.profiles import Profile

ROOT = Path(__file__).parent.parent
WORKFLOWS = sorted((ROOT / ".github" / "workflows").glob("*.yml"))
FORMS = sorted((ROOT / ".github" / "ISSUE_TEMPLATE").glob("[!c]*.yml"))


def test_the_citation_names_this_version_and_the_paper() -> None:
    """CITATION.cff is of the version in pyproject.toml and prefers the paper of the method."""
    cited = YAML(typ="safe").load((ROOT / "CITATION.cff").read_text())
    version = re.search(r'^version = "(.*)"', (ROOT / "pyproject.toml").read_text(), re.MULTILINE)
    assert version is not None
    assert cited["version"] == version[1]
    paper = cited["preferred-citation"]
    assert paper["title"].startswith("XSP: Across-Stack Profiling and Analysis")
    assert paper["authors"][0]["family-names"] == "Li"
    assert len(paper["authors"]) == 6


@pytest.mark.parametrize("path", FORMS, ids=[path.stem for path in FORMS])
def test_an_issue_form_asks_for_what_is_needed(path: Path) -> None:
    """Each form has what GitHub wants of one, with ids that differ; a report asks for what
    `xsp doctor` says.
    """
    form = YAML(typ="safe").load(path.read_text())
    assert {"name", "description", "body"} <= set(form)
    ids = [part["id"] for part in form["body"]]
    assert len(ids) == len(set(ids))
    assert all(part["attributes"]["label"] for part in form["body"])
    assert ("doctor" in ids) == (path.stem != "idea")


def test_what_the_workflows_make_exists() -> None:
    """Every `make X` of a workflow is a target, and tests have the PostgreSQL that they start."""
    flows = [YAML(typ="safe").load(path.read_text()) for path in WORKFLOWS]
    steps = [step for flow in flows for job in flow["jobs"].values() for step in job["steps"]]
    said = "\n".join(step.get("run", "") for step in steps)
    targets = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    made = set(re.findall(r"^make ([a-z-]+)", said, re.MULTILINE))
    assert {"lint", "test"} <= made <= targets
    assert "apt-get install -y postgresql" in said


@pytest.mark.parametrize("path", sorted((ROOT / "examples" / "ci").glob("*.yml")), ids=str)
def test_example_workflows_install_from_a_repository(path: Path) -> None:
    """No step installs xsp by a name that an index may not have; the comment is written with the
    permission that it needs, and not for forks.
    """
    flow = YAML(typ="safe").load(path.read_text())
    (job,) = flow["jobs"].values()
    steps = [step for step in job["steps"] if "run" in step]
    said = "\n".join(step["run"] for step in steps)
    assert re.findall(r"xsp(?:\[[^\]]*\])? @ git\+\$XSP_REPOSITORY", said)
    assert not re.search(r"install [^\n]*'?\bxsp(\[[^\]]*\])?'?( |$)(?!@)", said)
    assert flow["permissions"]["pull-requests"] == "write"
    (comment,) = (step for step in steps if "gh pr comment" in step["run"])
    assert "!github.event.pull_request.head.repo.fork" in comment["if"]


def test_why_a_level_is_missing_is_shown_whole(tmp_path: Path) -> None:
    """`print(prof.levels)` and a notebook's view have every word of the reason."""
    prof = xsp.load(gpu_capture().save(tmp_path / "a.xsp"))
    reason = "torch was built without CUDA, " * 8 + "so install a CUDA build of torch"
    row = {"level": "KERNEL", "tracer": "CUPTI", "status": "unavailable", "reason": reason}
    prof._capture.meta["levels"] = [*prof._capture.meta["levels"][:3], row]
    assert reason in str(prof.levels)
    assert reason in Sentences(prof.levels)._repr_html_()
    assert type(prof.levels[["level"]]) is pd.DataFrame
    assert isinstance(prof, Profile)
