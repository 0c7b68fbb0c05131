"""Manifests: what is read, what is refused and in which words, and what makes two of them one."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from xsp.errors import ManifestError
from xsp.evaluation.manifest.document import LARGEST_BYTES
from xsp.evaluation.manifest.reading import (
    manifest_from_record,
    manifest_of,
    read_manifest,
    schema,
)

GOOD = """\
xsp: 1
name: digits
model:
  name: digits-cnn
  version: 1.0.0
  task: image classification
  framework: {name: torch, version: '>=2.5'}
  source:
    kind: onnx
    artifact:
      kind: file
      path: digits.onnx
      sha256: 'FIRST'
  inputs:
    - name: pixels
      dtype: float32
      shape: [batch, 1, 8, 8]
      column: image
      column_kind: image
      steps:
        - {step: normalize, mean: [8.0], std: [6.0]}
        - {step: transpose, axes: [2, 0, 1]}
  outputs:
    - name: scores
      dtype: float32
      shape: [batch, 3]
      steps:
        - step: softmax
      labels: ['0', '1', '2']
runtime:
  predictor: onnxruntime
scenario: {kind: single_stream}
dataset:
  kind: arrays
  artifact: {kind: file, path: digits.npz, sha256: 'OTHER'}
metrics:
  accuracy:
    - {metric: top_k, k: 1, output: scores, target: label}
  price: {per_hour: 2}
""".replace("FIRST", "0" * 64).replace("OTHER", "1" * 64)


def changed(old: str, new: str) -> bytes:
    """The good manifest with one place changed."""
    assert GOOD.count(old) >= 1, old
    return GOOD.replace(old, new, 1).encode()


def without(line: str) -> bytes:
    return changed(line, "").replace(b"\n\n", b"\n")


def random_data(settings: str) -> bytes:
    """The good manifest without accuracy, on random data."""
    data = f"dataset: {{kind: random, {settings}}}\n"
    return GOOD[: GOOD.index("dataset:")].encode() + data.encode()


def deep(levels: int) -> str:
    return "[" * levels + "]" * levels


BAD: dict[str, tuple[bytes, int, str]] = {
    # ---- syntax ----
    "empty": (b"", 1, "is empty"),
    "only a comment": (b"# nothing\n", 1, "is empty"),
    "a scalar": (b"digits", 1, "is a single value"),
    "a list": (b"- xsp: 1\n", 1, "is a list"),
    "a tab": (changed("  name: digits-cnn", "\tname: digits-cnn"), 4, "use spaces"),
    "an open bracket": (changed("[batch, 3]", "[batch, 3"), 27, "is not YAML"),
    "two documents": (GOOD.encode() + b"---\nxsp: 1\n", 40, "a second document"),
    "a key twice": (changed("name: digits\n", "name: digits\nname: again\n"), 3, "name: is there"),
    "a key twice, deep": (
        changed("  version: 1.0.0", "  version: 1.0.0\n  version: 1.0.1"),
        6,
        "model.version: is there twice, first in line 5",
    ),
    "a tag that runs code": (
        changed("name: digits\n", "name: !!python/object/apply:os.system [ls]\n"),
        2,
        "uses the tag",
    ),
    "an alias": (changed("xsp: 1", "xsp: &a 1"), 1, "anchor or alias"),
    "an alias bomb": (
        b"a: &a [x,x,x,x]\nb: &b [*a,*a,*a,*a]\nc: [*b,*b,*b,*b]\n",
        1,
        "anchor or alias",
    ),
    "a merge key": (
        changed("price: {per_hour: 2}", "<<: {price: {per_hour: 2}}"),
        39,
        "the key <<",
    ),
    "nested too deep": (changed("name: digits\n", f"name: {deep(40)}\n"), 2, "nested deeper"),
    "nested a hundred thousand deep": (b"a: " + b"[" * 100_000, 1, "nested deeper"),
    "a NUL": (changed("digits-cnn", "digits\0cnn"), 4, "NUL"),
    "a control character": (changed("digits-cnn", "digits\a"), 4, "not YAML"),
    "not UTF-8": (changed("digits-cnn", "digits-cnn").replace(b"cnn", b"\xff"), 4, "not UTF-8"),
    "too large": (GOOD.encode() + b"#" * LARGEST_BYTES, 1, "bytes"),
    "another YAML": (b"%YAML 1.1\n---\n" + GOOD.encode(), 2, "YAML than 1.2"),
    "a number as a key": (changed("name: digits\n", "name: digits\n7: x\n"), 3, "key 7"),
    "a collection as a key": (changed("name: digits\n", "? [a]\n: x\n"), 2, "a collection"),
    # ---- types ----
    "a version that is a number": (
        changed("version: 1.0.0", "version: 1.10"),
        5,
        "model.version: must be text; put it in quotes, not 1.1",
    ),
    "true for text": (changed("name: digits\n", "name: true\n"), 2, "must be text"),
    "a quoted number": (changed("per_hour: 2", "per_hour: '2'"), 39, "a number without quotes"),
    "a word for a number": (changed("per_hour: 2", "per_hour: two"), 39, "a number without quotes"),
    "a fraction for a count": (changed("k: 1,", "k: 1.5,"), 38, "whole number"),
    "true for a count": (changed("k: 1,", "k: true,"), 38, "whole number without quotes, not true"),
    "octal": (changed("k: 1,", "k: 010,"), 38, "metrics.accuracy[0].k: is 010"),
    "hexadecimal": (changed("k: 1,", "k: 0x10,"), 38, "in decimal"),
    "underscores": (changed("k: 1,", "k: 1_0,"), 38, "in decimal"),
    "not a number": (changed("per_hour: 2", "per_hour: .nan"), 39, "is finite"),
    "infinity": (changed("per_hour: 2", "per_hour: .inf"), 39, "is finite"),
    "past double precision": (changed("per_hour: 2", "per_hour: 1e999"), 39, "is finite"),
    "past 64 bits": (changed("k: 1,", "k: 123456789012345678901,"), 38, "18 digits"),
    "negative": (changed("per_hour: 2", "per_hour: -2"), 39, "must be > 0, not -2"),
    "huge": (changed("[batch, 3]", "[batch, 3000000000]"), 26, "must be <= 1000000000"),
    "a scalar for a part": (changed("{kind: single_stream}", "server"), 32, "scenario: must be"),
    "nothing for a part": (changed("{kind: single_stream}", ""), 32, "scenario: must be"),
    "a mapping for a list": (changed("[batch, 3]", "{batch: 3}"), 26, "must be a list"),
    "empty text": (changed("name: digits\n", "name: ''\n"), 2, "at least 1 characters"),
    # ---- keys ----
    "an unknown key": (changed("task:", "taks:"), 6, "model.taks: is no key of this part; did you"),
    "an unknown key of a member": (
        changed("      path: digits.onnx", "      pth: digits.onnx"),
        12,
        "model.source.artifact.pth: is no key of this part; did you mean path?",
    ),
    "a missing key": (without("name: digits\n"), 1, "name: is missing"),
    "a missing key, deep": (without("      dtype: float32\n"), 15, "inputs[0].dtype: is missing"),
    "a key of another scenario": (
        changed("{kind: single_stream}", "{kind: single_stream, samples_per_query: 8}"),
        32,
        "scenario.samples_per_query: is no key",
    ),
    "an unknown scenario": (changed("single_stream", "singel"), 32, "has the kind 'singel'"),
    "a part without its kind": (changed("{kind: single_stream}", "{}"), 32, "says no kind"),
    "an unknown step": (changed("step: softmax", "step: softmin"), 28, "has the step 'softmin'"),
    "a format of later": (changed("xsp: 1", "xsp: 2"), 1, "xsp: must be 1, not 2"),
    "a checksum of another length": (changed("0" * 64, "0" * 40), 13, "64 lower-case hexadecimal"),
    "http": (
        changed("{kind: file, path: digits.npz,", "{kind: url, url: 'http://a.b/c',"),
        35,
        "begins with https",
    ),
    "a device that is none": (
        changed("predictor: onnxruntime", "predictor: onnxruntime\n  device: gpu"),
        32,
        "must be cpu, cuda or cuda:N, not 'gpu'",
    ),
    "a deviation of zero": (changed("std: [6.0]", "std: [0.0]"), 21, "must be > 0, not 0.0"),
    "no input": (
        changed(GOOD[GOOD.index("  inputs:") : GOOD.index("  outputs:")], "  inputs: []\n"),
        14,
        "model.inputs: must have at least 1 items",
    ),
    # ---- meaning ----
    "two inputs of one name": (
        changed(
            "  outputs:",
            "    - {name: pixels, dtype: float32, shape: [batch]}\n  outputs:",
        ),
        23,
        "model.inputs[1].name: is 'pixels', which an earlier one has already",
    ),
    "built-in steps and Python": (
        changed("  outputs:", "  preprocess: {function: 'steps.py:pre'}\n  outputs:"),
        23,
        "model.preprocess: is Python beside built-in steps",
    ),
    "steps in the wrong order": (
        changed("column_kind: image", "column_kind: encoded image"),
        21,
        "normalize needs an array or an image, but is given an encoded image",
    ),
    "an image step after channels first": (
        changed(
            "axes: [2, 0, 1]}", "axes: [2, 0, 1]}\n        - {step: crop, height: 4, width: 4}"
        ),
        23,
        "crop needs an image, but is given an array",
    ),
    "probabilities of classes": (
        changed("- step: softmax", "- step: argmax\n        - step: softmax"),
        29,
        "softmax needs scores, but is given classes",
    ),
    "means that do not fit the deviations": (
        changed("std: [6.0]", "std: [6.0, 5.0]"),
        21,
        "has 1 means but 2 deviations",
    ),
    "an axis twice": (changed("axes: [2, 0, 1]", "axes: [2, 0, 0]"), 22, "the axes 0 to 2"),
    "a constraint that is none": (changed("'>=2.5'", "'new'"), 7, "must be a constraint"),
    "fewer labels than classes": (changed("['0', '1', '2']", "['0', '1']"), 29, "has 2 names"),
    "the batch in the middle": (changed("[batch, 1, 8, 8]", "[1, batch, 8, 8]"), 17, "has batch"),
    "a metric of no output": (changed("output: scores", "output: score"), 38, "outputs are scores"),
    "a metric that does not fit": (
        changed("step: softmax", "step: argmax"),
        38,
        "is top_1, which needs probabilities or scores; the output 'scores' gives classes",
    ),
    "more ranks than classes": (changed("k: 1,", "k: 5,"), 38, "must be <= 3"),
    "the same metric twice": (
        changed(
            "metrics:\n  accuracy:\n", "metrics:\n  accuracy:\n" + GOOD.splitlines()[37] + "\n"
        ),
        39,
        "twice",
    ),
    "accuracy on random data": (
        changed(GOOD[GOOD.index("dataset:") : GOOD.index("metrics:")], "dataset: {kind: random}\n"),
        36,
        "nothing to be right about",
    ),
    "random values that end before they begin": (
        random_data("low: 5.0, high: 1.0"),
        33,
        "dataset.low: must be <= high, which is 1, not 5",
    ),
    "random values that a type cannot hold": (
        random_data("high: 1e300"),
        33,
        "dataset.high: is 1e+300, which the input 'pixels' of float32 cannot hold",
    ),
    "a negative seed": (random_data("seed: -1"), 33, "dataset.seed: must be >= 0, not -1"),
    "a format of true": (changed("xsp: 1", "xsp: true"), 1, "must be the whole number 1, not true"),
    "half a character": (
        changed("name: digits\n", 'name: "\\ud800"\n'),
        2,
        "name: has half of a surrogate pair",
    ),
    "a checksum of a package's function": (
        changed(
            "  outputs:",
            "  postprocess: {function: 'numpy:exp', sha256: '" + "0" * 64 + "'}\n  outputs:",
        )
        .replace(b"        - step: softmax\n", b"")
        .replace(b"      steps:\n      lab", b"      lab"),
        23,
        "it pins files beside",
    ),
}


def test_there_are_more_than_fifty_kinds() -> None:
    """The list below is what the documentation says of it."""
    assert len(BAD) >= 50


@pytest.mark.parametrize("kind", BAD)
def test_a_bad_manifest_is_refused(kind: str) -> None:
    """Each kind of fault is told as `file:line key: what`, with its own line and rule."""
    raw, line, said = BAD[kind]
    with pytest.raises(ManifestError) as caught:
        manifest_of(raw, "bad.yaml")
    first, *more = str(caught.value).splitlines()
    assert first.startswith(f"bad.yaml:{line} "), str(caught.value)
    assert said in first
    assert not more


def test_all_faults_are_told_at_once() -> None:
    """Two mistakes take one attempt, each with its line."""
    text = GOOD.replace("version: 1.0.0", "version: 1.0").replace("k: 1,", "k: 0,")
    with pytest.raises(ManifestError) as caught:
        manifest_of(text.encode(), "bad.yaml")
    assert [line.split()[0] for line in str(caught.value).splitlines()] == [
        "bad.yaml:5",
        "bad.yaml:38",
    ]


@pytest.mark.parametrize("made", [None, "folder"])
def test_a_file_that_cannot_be_read(made: str | None, tmp_path: Path) -> None:
    """A missing file, or a folder, is one sentence."""
    path = tmp_path / "manifest.yaml"
    if made == "folder":
        path.mkdir()
    with pytest.raises(ManifestError, match="cannot be read"):
        read_manifest(path)


def test_equal_manifests_have_one_identity(tmp_path: Path) -> None:
    """Order of keys, comments, style and defaults that are written out make no difference; any
    value does. The recorded JSON leads to the same manifest.
    """
    path = tmp_path / "manifest.yaml"
    path.write_text(GOOD)
    first = read_manifest(path)
    lines = GOOD.replace("xsp: 1\nname: digits\n", "# a comment\nname: 'digits'\nxsp: 1\n")
    lines = lines.replace("{per_hour: 2}", "\n    currency: USD\n    per_hour: 2.0")
    again = manifest_of(lines.encode(), "again.yaml")
    assert again == first
    assert again.identity == first.identity
    assert len(first.identity) == 64
    other = manifest_of(changed("per_hour: 2", "per_hour: 3"), "other.yaml")
    assert other.identity != first.identity
    shortest = manifest_of(changed(", version: '>=2.5'", ""), "no version.yaml")
    assert manifest_from_record(shortest.canonical()) == shortest
    assert manifest_from_record(first.canonical()) == first
    assert manifest_from_record(first.canonical()).identity == first.identity


def test_defaults_can_be_recorded() -> None:
    """A manifest that leaves out what it may is read again from its record, and from its JSON."""
    raw = changed("{name: torch, version: '>=2.5'}", "{name: torch}")
    first = manifest_of(raw, "m.yaml")
    assert manifest_from_record(first.canonical()) == first
    assert manifest_of(first.canonical().encode(), "m.json") == first


def test_a_record_of_another_version_is_told() -> None:
    """What a later version recorded is no traceback."""
    with pytest.raises(ManifestError, match="use the version"):
        manifest_from_record('{"xsp": 2}')


def test_the_schema_is_published() -> None:
    """The JSON schema has every part with its description, and can be written as JSON."""
    found = json.loads(json.dumps(schema()))
    assert found["$schema"].startswith("https://json-schema.org/")
    assert {"xsp", "model", "runtime", "scenario", "dataset"} <= set(found["required"])
    assert "An evaluation" in found["description"]
    assert found["additionalProperties"] is False
