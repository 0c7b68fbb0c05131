"""A model evaluated as its manifest says: measured, kept, repeated from the record alone."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
from evaluated_models import SOURCE, write_digits

import xsp
from xsp.cli import main
from xsp.database.store import Store
from xsp.errors import EvaluationError, ManifestError
from xsp.evaluation.artifacts.store import ArtifactStore
from xsp.evaluation.manifest.reading import manifest_of
from xsp.evaluation.preparing import prepare
from xsp.evaluation.records.evaluation import Evaluation
from xsp.evaluation.records.jobs import jobs
from xsp.evaluation.records.reading import evaluations, read
from xsp.evaluation.records.writing import write
from xsp.evaluation.repeating import repeat
from xsp.evaluation.running import changed, evaluate
from xsp.evaluation.scenarios.process import MeasuredProcess

METRICS = """
  accuracy:
    - {metric: top_k, k: 1, output: scores, target: label}
    - {metric: top_k, k: 5, output: scores, target: label}
    - {metric: f1, output: scores, target: label}
  price: {per_hour: 2.0, currency: EUR}"""


class Place:
    """A database, an artifact store, and the manifest in a folder beside them."""

    def __init__(self, folder: Path) -> None:
        self.database, self.artifacts = folder / "db.sqlite", folder / "artifacts"
        self.folder = folder / "digits"
        self.manifest = write_digits(self.folder, metrics=METRICS)

    def options(self) -> list[str]:
        return ["--database", str(self.database), "--artifacts", str(self.artifacts)]


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Place:
    return Place(tmp_path_factory.mktemp("evaluate"))


@pytest.fixture(scope="module")
def first(place: Place) -> Evaluation:
    """The digits, traced at the level of layers too."""
    return evaluate(
        place.manifest,
        database=place.database,
        artifacts=place.artifacts,
        allow_code=True,
        trace="FRAMEWORK",
        labels={"rack": "a"},
    )


def test_an_evaluation_is_measured_and_kept(place: Place, first: Evaluation) -> None:
    """Latency has an interval, accuracy that of the trained network, and one row is in the
    database.
    """
    assert first.outcome.valid, first.outcome.reasons
    assert first.outcome.errors == 0
    assert len(first.outcome.latency_ns) >= 64
    p50 = first.measure("latency_p50")
    assert p50.value is not None
    assert p50.low is not None
    assert p50.high is not None
    assert 0 < p50.low <= p50.value <= p50.high
    assert set(first.accuracy) == {"top_1", "top_5", "f1"}
    assert first.accuracy["top_1"] > 0.85
    assert first.system["labels"] == {"rack": "a"}
    with Store(place.database) as store:
        assert first.id in evaluations(store)["id"].tolist()
        assert read(store, first.id).measures


def test_stages_and_model_share_a_trace(place: Place, first: Evaluation) -> None:
    """The capture and the spans of the stages have one trace id, and the model's spans hang below
    the same span as the stages.
    """
    by_kind = {each.kind: each for each in first.traces}
    store = ArtifactStore(place.artifacts)
    capture = store.get(by_kind["capture"].sha256)
    stages = store.get(by_kind["stages"].sha256)
    assert capture is not None
    assert stages is not None
    profile, document = xsp.load(capture), json.loads(stages.read_text())
    assert document["trace_id"] == by_kind["capture"].trace_id == profile.trace.trace_id_hex
    assert {span["parent_id"] for span in document["spans"]} == {document["span_id"]}
    assert len({span["span_id"] for span in document["spans"]}) == len(document["spans"])
    names = {span["name"] for span in document["spans"]}
    assert names == {"read", "preprocess", "predict", "postprocess", "judge"}
    assert {"MODEL", "LAYER"} <= set(profile.spans["level"].astype(str))
    model = profile.spans[profile.spans["level"].astype(str) == "MODEL"]
    assert {f"{int(parent):016x}" for parent in model["parent_id"]} == {document["span_id"]}


def test_a_record_is_run_again_by_itself(place: Place, first: Evaluation, tmp_path: Path) -> None:
    """With the manifest, its files and the stored code gone, the record and the artifacts are
    enough; accuracy is the same to the last digit and the comparison says so.
    """
    shutil.move(place.folder, tmp_path / "gone")
    source = first.manifest.model.source
    assert source.kind == "python"
    assert source.make.sha256 is not None
    ArtifactStore(place.artifacts).place(source.make.sha256).unlink()
    try:
        with pytest.raises(EvaluationError, match="is code"):
            repeat(first.id, database=place.database, artifacts=place.artifacts)
        found, comparison = repeat(
            first.id[:10], database=place.database, artifacts=place.artifacts, allow_code=True
        )
    finally:
        shutil.move(tmp_path / "gone", place.folder)
    assert found.again == first.id
    assert found.id != first.id
    assert found.manifest == first.manifest
    assert found.accuracy == first.accuracy
    assert set(comparison.accuracy["word"]) == {"same"}
    assert comparison.latency.name in {"neutral", "undecided", "regression", "improved"}
    assert comparison.differences == ()


def test_a_record_is_refused_where_it_cannot_run(
    place: Place,
    first: Evaluation,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """What the record's manifest asks of a machine holds when it is run again: labels of the record
    are this machine's only where it is the same by its facts, and those that are given count.
    Nothing runs then, and nothing is written.
    """
    asks = {"labels": {"rack": "a"}, "memory_gib": 0.5}
    content = json.loads(first.manifest.canonical()) | {"system": asks}
    record = replace(first, manifest=manifest_of(json.dumps(content).encode(), "m"))
    elsewhere = {**record.system, "gpu": "a GPU"}
    large = {**content, "system": {"memory_gib": 900_000}}
    others = {
        "a" * 16: replace(record, system=elsewhere),
        "b" * 16: replace(record, manifest=manifest_of(json.dumps(large).encode(), "m")),
    }
    with Store(place.database) as store:
        for id, each in others.items():  # noqa: A001 - what it is called everywhere
            write(store, replace(each, id=id))
        before = len(evaluations(store))
    again = ["--allow-code", *place.options()]
    said = run(capsys, monkeypatch, "--from", "a" * 16, *again)
    assert "asks for a system with rack a, but this machine has no rack" in said
    assert "--label rack=a" in said
    said = run(capsys, monkeypatch, "--from", "b" * 16, *again)
    assert "9e+05 GiB memory, but this machine has" in said
    with Store(place.database) as store:
        assert len(evaluations(store)) == before


def run(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, *given: str) -> str:
    """What `xsp evaluate` prints on success, or its sentence on stderr."""
    monkeypatch.setattr("sys.argv", ["xsp", "evaluate", *given])
    with pytest.raises(SystemExit) as ended:
        main()
    printed = capsys.readouterr()
    return printed.err if ended.value.code else printed.out


def test_the_command_line(
    place: Place,
    first: Evaluation,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A manifest by another runtime and scenario, the list, and a comparison of two records."""
    out = run(
        capsys,
        monkeypatch,
        str(place.manifest),
        "--predictor",
        "torchscript",
        "--scenario",
        "{kind: offline, samples: 64, batch: 8}",
        "--allow-code",
        "--trace",
        "MODEL",
        *place.options(),
    )
    assert "on torchscript" in out
    capture = next(line for line in out.splitlines() if line.endswith(" shows the capture"))
    assert "MODEL" in set(xsp.load(capture.split()[2]).spans["level"].astype(str))
    assert "offline" in out
    assert "throughput" in out
    assert f"top_1 {first.accuracy['top_1']:.6g}" in out
    listed = run(capsys, monkeypatch, "--list", *place.options())
    row = next(line for line in listed.splitlines() if first.id in line)
    p50 = first.measure("latency_p50").value
    assert p50 is not None
    assert f"{p50 / 1e6:.4g}" in row
    assert " UTC " in row
    assert " FRAMEWORK " in row
    other = out.split()[1].rstrip(":")
    compared = run(capsys, monkeypatch, "--compare", first.id, other, *place.options())
    assert "top_1: " in compared
    assert ": same" in compared
    assert "the runtimes differ" in compared


def test_everything_can_be_had_as_json(
    place: Place,
    first: Evaluation,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """With --json an evaluation, the list and a comparison are JSON and nothing else is printed;
    -o writes the same to a file. A record of another machine is run again with the labels that are
    given, and the verdict is doubtful by that.
    """
    quick = ("--scenario", "{kind: offline, samples: 16}", "--allow-code", *place.options())
    path = tmp_path / "found.json"
    out = run(capsys, monkeypatch, str(place.manifest), *quick, "--json")
    (other,) = json.loads(out)
    assert other["valid"]
    measures = {each["name"]: each["value"] for each in other["measures"]}
    assert measures["top_1"] == first.accuracy["top_1"]
    listed = json.loads(run(capsys, monkeypatch, "--list", "--json", *place.options()))
    assert {first.id, other["id"]} <= {row["id"] for row in listed}
    both = ("--compare", first.id, other["id"], *place.options())
    compared = json.loads(run(capsys, monkeypatch, *both, "--json"))
    assert (compared["before"], compared["after"]) == (first.id, other["id"])
    assert {row["word"] for row in compared["accuracy"]} == {"same"}
    said = run(capsys, monkeypatch, *both, "-o", str(path))
    assert "top_1: " in said
    assert json.loads(path.read_text()) == compared
    with Store(place.database) as store:
        record = read(store, other["id"])
        elsewhere = {**record.system, "gpu": "a GPU", "labels": {"rack": "b"}}
        write(store, replace(record, id="e" * 16, system=elsewhere))
    again = ("--from", "e" * 16, "--label", "rack=a", "--allow-code", *place.options())
    repeated = json.loads(run(capsys, monkeypatch, *again, "--json"))
    assert repeated["evaluation"]["system"]["labels"] == {"rack": "a"}
    assert repeated["comparison"]["before"] == "e" * 16
    assert "different systems (gpu, labels)" in repeated["comparison"]["doubts"][0]
    assert "gpu a GPU before, none after" in " ".join(repeated["comparison"]["sentences"])
    nowhere = run(capsys, monkeypatch, "--list", *place.options(), "-o", str(tmp_path / "no" / "f"))
    assert "create it first" in nowhere


def test_an_evaluation_over_its_limit_is_a_row(
    place: Place,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """With --job-limit an evaluation has a process of its own, which is killed; the database has
    the error, and the command fails with it.
    """
    database = tmp_path / "db.sqlite"
    options = ["--database", str(database), "--artifacts", str(place.artifacts), "--allow-code"]
    monkeypatch.setattr("sys.argv", ["xsp", "evaluate", str(place.manifest), *options])
    monkeypatch.setattr("sys.argv", [*sys.argv, "--job-limit", "0.001"])
    with pytest.raises(SystemExit) as ended:
        main()
    assert ended.value.code == 1
    assert "failed: the job was ended after its time limit of 0.001 s" in capsys.readouterr().out
    with Store(database) as store:
        (row,) = jobs(store).to_dict("records")
        assert "time limit of 0.001 s" in row["error"]
        assert evaluations(store).empty


def test_the_schema_can_be_had(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """`xsp evaluate --schema` prints JSON."""
    assert json.loads(run(capsys, monkeypatch, "--schema"))["required"]


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ((), "give manifests, or one of --resume, --from"),
        (("m.yaml", "--list"), "give manifests, or one of --resume, --from"),
        (("m.yaml",), "cannot be read"),
        (("MANIFEST", "--trace", "ALL"), "must be one of NONE, MODEL, FRAMEWORK, SYSTEM, FULL"),
        (("MANIFEST", "--scenario", "server"), "scenario.rate_per_s: is missing"),
        (("MANIFEST", "--scenario", "[1"), "is not YAML"),
        (
            ("MANIFEST", "--scenario", "{kind: offline, sample: 3}"),
            "the scenario {'kind': 'offline', 'sample': 3}: scenario.sample: is no key",
        ),
        (("MANIFEST", "--predictor", "tensorflow"), "there is no predictor 'tensorflow'"),
        (("MANIFEST", "--label", "rack"), "--label must be NAME=VALUE"),
        (("MANIFEST",), "allow it with --allow-code"),
        (("--from", "abc"), "there is no evaluation"),
        (("--from", "abc", "--predictor", "torch"), "--predictor says how manifests are evaluated"),
        (("--list", "--ray", "local"), "--ray says how manifests are evaluated"),
        (("--add", "no.json"), "cannot be read as an evaluation"),
    ],
)
def test_what_cannot_be_done_is_told(
    given: tuple[str, ...],
    said: str,
    place: Place,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Each is a sentence and exit status 2; nothing is measured or written."""
    monkeypatch.chdir(tmp_path)
    arguments = [str(place.manifest) if each == "MANIFEST" else each for each in given]
    place_options = ["--database", "db.sqlite", "--artifacts", str(place.artifacts)]
    assert said in run(capsys, monkeypatch, *arguments, *place_options)
    if Path("db.sqlite").exists():
        with Store("db.sqlite") as store:
            assert evaluations(store).empty


def test_models_are_made_ready_before_any_is_measured(place: Place, first: Evaluation) -> None:
    """An evaluation finds its model in the process that was prepared; one that cannot be loaded
    says why and leaves the others.
    """
    absent = changed(first.manifest, predictor="torch-compile", scenario=None)
    content = absent.model_dump(mode="json")
    content["runtime"]["options"] = {"backend": "no such compiler"}
    broken = manifest_of(json.dumps(content).encode(), "a test")
    with MeasuredProcess() as one, MeasuredProcess() as other:
        todo = [(broken, one), (first.manifest, other)]
        why, well = prepare(todo, [1, 4], artifacts=place.artifacts, allow_code=True)
        assert "no such compiler" in str(why)
        assert well is None
        found = evaluate(
            first.manifest,
            database=place.database,
            artifacts=place.artifacts,
            allow_code=True,
            process=other,
        )
        assert other.started == 1
    assert found.outcome.details["made_ready"] == [1, 4]
    assert found.manifest.identity == first.manifest.identity


def test_a_system_that_is_not_here_is_told(tmp_path: Path) -> None:
    """What a manifest asks of the machine holds for a single evaluation too; a label that is given
    counts. Nothing runs, and no database is made.
    """
    asked = "{gpus: 99, memory_gib: 900000, labels: {rack: a, zone: b}}"
    path = write_digits(tmp_path, system=asked)
    with pytest.raises(EvaluationError) as caught:
        evaluate(path, database=tmp_path / "db.sqlite", labels={"zone": "b"}, allow_code=True)
    said = str(caught.value)
    assert "asks for a system with 99 GPU and 9e+05 GiB memory and rack a" in said
    assert "no rack; give --label rack=a where it has that" in said
    assert "zone" not in said
    assert not (tmp_path / "db.sqlite").exists()


def test_a_cost_has_its_currency(first: Evaluation) -> None:
    """A price in the manifest gives a cost whose unit is the price's."""
    price = first.manifest.metrics.price
    assert price is not None
    cost = first.measure("cost_per_million")
    assert cost.unit == price.currency == "EUR"


def test_a_replay_is_recorded_with_its_arrival_times(place: Place) -> None:
    """Arrival times in a file beside the manifest are in the record, which needs no file then; the
    test's logs are kept beside the artifacts. The model gives more than its manifest declares,
    which is a doubt of the record.
    """
    (place.folder / "arrivals.txt").write_text("0.5\n0.75\n")
    found = evaluate(
        _with_an_output_more(place),
        database=place.database,
        artifacts=place.artifacts,
        allow_code=True,
        scenario={"kind": "replay", "arrivals_file": "arrivals.txt"},
    )
    with Store(place.database) as store:
        kept = read(store, found.id)
    assert found.outcome.logs is not None
    assert found.outcome.logs.is_relative_to(place.artifacts.resolve())
    assert kept.manifest.scenario.kind == "replay"
    assert kept.manifest.scenario.arrivals_s == (0.5, 0.75)
    (doubt,) = (each for each in kept.doubts if "does not declare" in each)
    assert doubt.startswith("digits-cnn gives outputs that the manifest does not declare (value 2")
    assert doubt in str(kept)
    assert kept.outcome.scheduled_ns[1] - kept.outcome.scheduled_ns[0] == 250_000_000


def _with_an_output_more(place: Place) -> Path:
    """The manifest of the digits' network as it would be if it also gave what its last layer
    takes.
    """
    source = SOURCE.replace("return self.fc(x.flatten(1))", "return self.fc(x.flatten(1)), x")
    (place.folder / "more.py").write_text(source)
    manifest = place.folder / "more.yaml"
    manifest.write_text(place.manifest.read_text().replace("digits.py:make", "more.py:make"))
    return manifest


def test_a_changed_manifest_is_checked(first: Evaluation) -> None:
    """Another runtime drops the options of the manifest's own; another scenario is validated."""
    other = changed(first.manifest, predictor="onnxruntime", scenario={"kind": "offline"})
    assert other.runtime.predictor == "onnxruntime"
    assert other.scenario.kind == "offline"
    assert other.identity != first.manifest.identity
    with pytest.raises(ManifestError, match="is no key"):
        changed(first.manifest, predictor=None, scenario={"kind": "offline", "qps": 3})


HIDDEN = """
import sys

class Hidden:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in {"ruamel", "torchmetrics", "onnxruntime"}:
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)

sys.meta_path.insert(0, Hidden())
import xsp, xsp.evaluation, xsp.cli
sys.argv = ["xsp", "evaluate", "m.yaml"]
xsp.cli.main()
"""


def test_without_the_extra_there_is_one_sentence() -> None:
    """Importing needs nothing of the extra; the command says what to install."""
    ran = subprocess.run([sys.executable, "-c", HIDDEN], capture_output=True, text=True)
    assert ran.returncode == 2
    assert ran.stderr.count("\n") == 1, ran.stderr
    assert 'pip install "xsp[evaluation]"' in ran.stderr
