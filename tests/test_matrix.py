"""A matrix of evaluations: jobs from manifests, kept in the database, run once each."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from evaluated_models import write_digits
from served_evaluations import evaluation
from typer.testing import CliRunner

from xsp.cli.application import app
from xsp.database.store import Store
from xsp.errors import DispatchError, EvaluationError, ManifestError
from xsp.evaluation.artifacts.store import ArtifactStore
from xsp.evaluation.dispatch.job import Answer, Job
from xsp.evaluation.manifest.reading import manifest_from_record, read_manifest
from xsp.evaluation.matrix import dispatch, matrix, new_run
from xsp.evaluation.records.jobs import add_jobs, finish, jobs, unfinished
from xsp.evaluation.records.reading import evaluations, read
from xsp.evaluation.records.transport import as_json

PREDICTORS = ("torch", "torch-export")
SCENARIOS = (
    {"kind": "single_stream", "queries": 100},
    {"kind": "offline", "samples": 64},
    None,
)


@pytest.fixture(scope="module")
def manifest(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The digits, whose model is Python that is not allowed to run: its jobs fail at once."""
    return write_digits(tmp_path_factory.mktemp("digits"))


@pytest.fixture
def artifacts(tmp_path: Path) -> ArtifactStore:
    return ArtifactStore(tmp_path / "artifacts")


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    with Store(tmp_path / "evaluations.sqlite") as store:
        yield store


def made(
    manifest: Path, artifacts: ArtifactStore, run: str = "run", **changes: object
) -> list[Job]:
    options = {"predictors": PREDICTORS, "scenarios": SCENARIOS, **changes}
    return matrix([manifest], run=run, artifacts=artifacts, **options)  # type: ignore[arg-type] # of several types


def test_every_combination_is_a_job(manifest: Path, artifacts: ArtifactStore) -> None:
    """With all that an agent needs, and a key of its own that is another in another run."""
    found = made(manifest, artifacts)
    asked = [manifest_from_record(job.payload["manifest"]) for job in found]
    assert [(each.runtime.predictor, each.scenario.kind) for each in asked] == [
        (predictor, kind)
        for predictor in PREDICTORS
        for kind in ("single_stream", "offline", "single_stream")
    ]
    assert len({job.key for job in found}) == 6
    assert [job.key for job in made(manifest, artifacts)] == [job.key for job in found]
    assert not {job.key for job in made(manifest, artifacts, new_run())} & {
        job.key for job in found
    }


def test_requirements_are_the_manifests_and_the_devices(
    tmp_path: Path, artifacts: ArtifactStore
) -> None:
    """A device that is a GPU needs one, whatever the manifest says; labels are added."""
    system = "{memory_gib: 2, labels: {zone: a}}"
    path = write_digits(tmp_path, runtime="{predictor: torch, device: cuda}", system=system)
    job = made(path, artifacts, predictors=(None,), scenarios=(None,), on={"host": "b"})[0]
    assert job.requirements == {"GPU": 1.0, "memory": 2 * 2.0**30, "zone": "a", "host": "b"}


def test_a_manifest_that_leaves_out_what_it_can_is_read_from_its_record(tmp_path: Path) -> None:
    """Its canonical JSON has every default, which is valid when it is read again."""
    given = read_manifest(write_digits(tmp_path))
    framework = given.model.framework.model_copy(update={"version": ""})
    given = given.model_copy(
        update={"model": given.model.model_copy(update={"framework": framework})}
    )
    assert manifest_from_record(given.canonical()) == given


def test_a_combination_that_is_none_is_told_before_anything_runs(
    manifest: Path, artifacts: ArtifactStore
) -> None:
    """Settings that a scenario does not have, as in a manifest."""
    with pytest.raises(ManifestError, match="rate_per_s"):
        made(manifest, artifacts, scenarios=({"kind": "server"},))


def test_a_run_goes_on_where_it_was_ended(
    manifest: Path, artifacts: ArtifactStore, store: Store
) -> None:
    """Each job ends once, over both dispatches, and is a row with its error where it fails."""
    add_jobs(store, "run", made(manifest, artifacts))
    ended: list[str] = []

    def note(answer: Answer, _evaluation: str | None) -> None:
        ended.append(answer.job.key)

    first = dispatch("run", store, ended=note, stop=lambda: len(ended) >= 2)
    assert (first.failed, len(first.remaining), len(ended)) == (2, 4, 2)
    second = dispatch("run", store, ended=note)
    assert (second.failed, second.complete) == (4, True)
    rows = jobs(store, "run")
    assert sorted(ended) == sorted(rows["key"])
    assert rows["error"].str.contains("--allow-code").all()
    assert rows["ended_at"].notna().all()
    assert rows["evaluation"].isna().all()
    assert unfinished(store, "run") == []


def test_an_evaluation_is_written_once_for_its_job(
    manifest: Path, artifacts: ArtifactStore, store: Store
) -> None:
    """Also where its answer comes twice, or the writer was killed before the job was told."""
    job, other = made(manifest, artifacts)[:2]
    add_jobs(store, "run", [job, other])
    found = evaluation(read_manifest(manifest), 1, 2.0)
    answer = Answer(job, as_json(found), "", 1, "agent", {"niceness": 15})
    assert finish(store, answer) == finish(store, answer) == found.id
    again = replace(answer, result=as_json(replace(found, id="f" * 16)))
    finish(store, again)
    assert evaluations(store)["id"].tolist() == [found.id]
    assert jobs(store)["evaluation"].dropna().tolist() == [found.id]
    assert "niceness 15" in read(store, found.id).doubts[-1]
    assert unfinished(store, "run") == [other]


def test_a_run_that_is_not_there_is_told(store: Store) -> None:
    """With where it was looked for."""
    with pytest.raises(EvaluationError, match=r"no run 'x' in .*evaluations.sqlite"):
        unfinished(store, "x")


def test_several_manifests_are_a_run_on_the_command_line(
    manifest: Path, artifacts: ArtifactStore, tmp_path: Path
) -> None:
    """Failures are told and make the exit status 1; the run's id goes on with the rest, and what no
    agent can run is refused.
    """
    place = ["--database", str(tmp_path / "db"), "--artifacts", str(artifacts.folder)]
    runner = CliRunner()
    result = runner.invoke(app, ["evaluate", str(manifest), str(manifest), *place])
    assert result.exit_code == 1, result.output
    assert "digits, torch, single_stream: failed:" in result.output
    run = result.output.split("run ")[1].split(":")[0]
    again = runner.invoke(app, ["evaluate", "--resume", run, *place[:2]])
    assert again.exit_code == 0, again.output
    assert "0 jobs done" in again.output
    on_gpu = write_digits(tmp_path / "gpu", runtime="{predictor: torch, device: cuda}")
    refused = runner.invoke(app, ["evaluate", str(on_gpu), str(on_gpu), *place])
    assert isinstance(refused.exception, DispatchError)
    assert "need 1 GPU" in str(refused.exception)
