"""Artifacts: checked by their sha256, inside their folder, not run and not fetched unasked."""

from __future__ import annotations

import io
import os
import pickle
import shutil
import tarfile
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from evaluated_models import manifest_text, network, sha256, trained, write_digits

from xsp.errors import EvaluationError, WriteError
from xsp.evaluation.artifacts import places
from xsp.evaluation.artifacts.gathering import code_files, file_of, gather
from xsp.evaluation.artifacts.store import ArtifactStore, checksum
from xsp.evaluation.manifest.artifact import Artifact, File, Packaged, Url
from xsp.evaluation.manifest.model import Manifest
from xsp.evaluation.manifest.reading import read_manifest
from xsp.evaluation.pipeline.assembling import assemble

CONTENT = b"weights"


@pytest.fixture
def store(tmp_path: Path) -> ArtifactStore:
    return ArtifactStore(tmp_path / "store")


@pytest.fixture
def base(tmp_path: Path) -> Path:
    folder = tmp_path / "base"
    folder.mkdir()
    return folder


def taken(artifact: Artifact, base: Path | None, store: ArtifactStore, **options: Any) -> Path:
    """An artifact brought in as the data set of a manifest, and its file."""
    content = read_manifest(write_digits((base or store.folder.parent) / "digits"))
    dataset = content.dataset.model_copy(update={"artifact": artifact})
    first = gather(content, (base or store.folder.parent) / "digits", store)
    gather(first.model_copy(update={"dataset": dataset}), base, store, **options)
    return file_of(artifact, store)


def a_file(path: str, content: bytes = CONTENT, **changes: Any) -> File:
    given = {"kind": "file", "path": path, "sha256": sha256(content)}
    return File(**{**given, **changes})


def zipped(members: dict[str, bytes]) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in members.items():
            archive.writestr(name, content)
    return buffer.getvalue()


def tarred(members: dict[str, bytes | tuple[bytes, str]]) -> bytes:
    """A .tar.gz; a pair is a link of this type to this target."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w:gz") as archive:
        for name, content in members.items():
            info = tarfile.TarInfo(name)
            if isinstance(content, tuple):
                info.type, info.linkname = content
                archive.addfile(info)
            else:
                info.size = len(content)
                archive.addfile(info, io.BytesIO(content))
    return buffer.getvalue()


def test_an_artifact_is_kept_by_its_checksum(store: ArtifactStore, base: Path) -> None:
    """A file is copied once; afterwards the store has it, wherever the original went."""
    (base / "deep").mkdir()
    (base / "deep" / "w.bin").write_bytes(CONTENT)
    artifact = a_file("deep/w.bin")
    path = taken(artifact, base, store)
    assert path == store.place(artifact.sha256)
    assert path.read_bytes() == CONTENT
    assert checksum(path) == artifact.sha256
    shutil.rmtree(base / "deep")
    assert taken(artifact, base, store) == path
    assert not list(store.folder.glob("incoming-*"))


def escaping(base: Path) -> File:
    (base.parent / "secret").write_bytes(CONTENT)
    return a_file("../secret")


def absolute(base: Path) -> File:
    (base.parent / "secret").write_bytes(CONTENT)
    return a_file(str(base.parent / "secret"))


def linked(base: Path) -> File:
    (base.parent / "secret").write_bytes(CONTENT)
    (base / "w.bin").symlink_to(base.parent / "secret")
    return a_file("w.bin")


def linked_folder(base: Path) -> File:
    (base.parent / "outside").mkdir()
    (base.parent / "outside" / "w.bin").write_bytes(CONTENT)
    (base / "in").symlink_to(base.parent / "outside")
    return a_file("in/w.bin")


def pipe(base: Path) -> File:
    os.mkfifo(base / "w.bin")
    return a_file("w.bin")


def folder(base: Path) -> File:
    (base / "w.bin").mkdir()
    return a_file("w.bin")


def written(base: Path, content: bytes, **changes: Any) -> File:
    (base / "w.bin").write_bytes(content)
    return a_file("w.bin", content, **changes)


HOSTILE: dict[str, tuple[Callable[[Path], Artifact], str]] = {
    "a path that leads out": (escaping, "leads out of"),
    "an absolute path": (absolute, "leads out of"),
    "a symlink that leads out": (linked, "leads out of"),
    "a folder that leads out": (linked_folder, "leads out of"),
    "a pipe": (pipe, "is not a regular file"),
    "a folder": (folder, "is not a regular file"),
    "nothing": (lambda base: a_file("w.bin"), "does not exist"),
    "another file": (
        lambda base: written(base, b"other", sha256=sha256(CONTENT)),
        "is another file, or was changed|it is another file",
    ),
    "a package that is not installed": (
        lambda base: Packaged(
            kind="package", package="no-such", version="1", path="x", sha256="0" * 64
        ),
        "is not installed: pip install no-such==1",
    ),
    "another version of a package": (
        lambda base: Packaged(
            kind="package", package="pytest", version="1.0", path="x", sha256="0" * 64
        ),
        "but the manifest names 1.0",
    ),
    "a file that a package has not": (
        lambda base: Packaged(
            kind="package",
            package="pytest",
            version=pytest.__version__,
            path="../../secret",
            sha256="0" * 64,
        ),
        "has no file",
    ),
    "a server": (
        lambda base: Url(kind="url", url="https://localhost:9/w", sha256="0" * 64),
        "nothing is fetched without being asked",
    ),
    "a member that leads out of its zip": (
        lambda base: written(base, zipped({"../../evil": CONTENT}), member="../../evil"),
        "leads out of its archive",
    ),
    "an absolute member": (
        lambda base: written(base, zipped({"/etc/evil": CONTENT}), member="/etc/evil"),
        "leads out of its archive",
    ),
    "a member that is not there": (
        lambda base: written(base, zipped({"a": CONTENT}), member="b"),
        "must have the member 'b' once, but has it not; it has a",
    ),
    "a folder in a zip": (
        lambda base: written(base, zipped({"a/": b""}), member="a/"),
        "is a folder or a link",
    ),
    "a bomb": (
        lambda base: written(base, zipped({"a": bytes(50_000_000)}), member="a"),
        "that is a bomb, no model",
    ),
    "a damaged zip": (
        lambda base: written(base, zipped({"a": os.urandom(2000)})[:-60], member="a"),
        "is damaged, encrypted or of another kind",
    ),
    "a link in a tar": (
        lambda base: written(base, tarred({"a": (tarfile.SYMTYPE, "/etc/passwd")}), member="a"),
        "is a folder or a link",
    ),
    "a hard link in a tar": (
        lambda base: written(base, tarred({"b": CONTENT, "a": (tarfile.LNKTYPE, "b")}), member="a"),
        "is a folder or a link",
    ),
    "a device in a tar": (
        lambda base: written(base, tarred({"a": (tarfile.CHRTYPE, "")}), member="a"),
        "is a folder or a link",
    ),
    "a tar that is cut short": (
        lambda base: written(base, tarred({"a": os.urandom(9000)})[:4000], member="a"),
        "is damaged, encrypted or of another kind",
    ),
    "no archive at all": (
        lambda base: written(base, b"plain", member="a"),
        "is damaged, encrypted or of another kind",
    ),
}


@pytest.mark.parametrize("kind", HOSTILE)
def test_a_hostile_artifact_is_refused(kind: str, store: ArtifactStore, base: Path) -> None:
    """Each is one sentence, nothing is written outside the store, and nothing that is not what the
    manifest says stays in it.
    """
    make, said = HOSTILE[kind]
    artifact = make(base)
    before = {path: path.stat().st_mtime_ns for path in base.rglob("*")}
    with pytest.raises(EvaluationError, match=said) as caught:
        taken(artifact, base, store)
    assert "\n" not in str(caught.value)
    assert {path for path in base.rglob("*") if "digits" not in path.parts} == set(before)
    assert not list(store.folder.glob("incoming-*"))
    assert not (store.folder.parent / "evil").exists()
    for path in store.folder.glob("??/*"):
        assert checksum(path) == path.name


@pytest.mark.parametrize("pack", [zipped, tarred])
def test_a_member_of_an_archive_is_taken_out(
    pack: Callable[[Any], bytes], store: ArtifactStore, base: Path
) -> None:
    """One file of an archive is the artifact; its own checksum names it in the store."""
    content = pack({"models/w.bin": CONTENT, "other": b"x"})
    path = taken(written(base, content, member="models/w.bin"), base, store)
    assert path.read_bytes() == CONTENT
    assert path == store.place(sha256(CONTENT))


def test_a_file_of_a_package_needs_no_import(store: ArtifactStore) -> None:
    """An installed package's file is found by its list of files."""
    from importlib.metadata import distribution

    found = distribution("pytest")
    listed = next(each for each in found.files or () if each.name == "LICENSE")
    content = Path(str(found.locate_file(listed))).read_bytes()
    artifact = Packaged(
        kind="package",
        package="pytest",
        version=found.version,
        path=str(listed),
        sha256=sha256(content),
    )
    assert taken(artifact, None, store).read_bytes() == content


def test_what_was_fetched_is_checked_and_kept(
    store: ArtifactStore, base: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An address is read once, when that is allowed; other contents than the manifest's are
    refused, and so is a redirection to anything but https.
    """
    asked: list[str] = []

    class Opener:
        def open(self, url: str, timeout: float) -> io.BytesIO:
            asked.append(url)
            return io.BytesIO(CONTENT)

    monkeypatch.setattr(places, "build_opener", lambda *_: Opener())
    right = Url(kind="url", url="https://example.org/w", sha256=sha256(CONTENT))
    assert taken(right, base, store, allow_fetch=True).read_bytes() == CONTENT
    assert taken(right, base, store).read_bytes() == CONTENT
    assert asked == ["https://example.org/w"]
    wrong = Url(kind="url", url="https://example.org/w", sha256=sha256(b"other"))
    with pytest.raises(EvaluationError, match="is another file"):
        taken(wrong, base, store, allow_fetch=True)
    with pytest.raises(OSError, match="not https"):
        places._OnlyHttps().redirect_request(None, None, 302, "", {}, "file:///etc/passwd")


def test_a_server_that_does_not_answer_is_told(store: ArtifactStore, base: Path) -> None:
    """No connection is one sentence."""
    closed = Url(kind="url", url="https://localhost:9/w", sha256="0" * 64)
    with pytest.raises(EvaluationError, match="cannot be fetched"):
        taken(closed, base, store, allow_fetch=True)


def test_a_stored_file_that_changed_is_noticed(store: ArtifactStore, base: Path) -> None:
    """The store is checked whenever something is taken out of it."""
    artifact = written(base, CONTENT)
    path = taken(artifact, base, store)
    path.write_bytes(b"tampered")
    with pytest.raises(EvaluationError, match=r"is damaged.*delete it"):
        taken(artifact, base, store)


def test_a_store_that_cannot_be_written_is_told(tmp_path: Path, base: Path) -> None:
    """A full or forbidden disk is a WriteError that names the folder and the way out."""
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(WriteError, match="XSP_ARTIFACTS"):
        taken(written(base, CONTENT), base, ArtifactStore(tmp_path / "file" / "store"))


def test_a_full_disk_leaves_nothing(
    store: ArtifactStore, base: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where the disk is full in the middle of a copy, nothing half written stays."""
    artifact = written(base, CONTENT)
    gather(read_manifest(write_digits(base / "digits")), base / "digits", store)

    def full(_descriptor: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(WriteError, match="No space left on device"):
        taken(artifact, base, store)
    monkeypatch.undo()
    assert not list(store.folder.glob("incoming-*"))
    assert taken(artifact, base, store).read_bytes() == CONTENT


# ---- code ----


def ready(folder: Path, store: ArtifactStore, **changes: str) -> Manifest:
    path = write_digits(folder, **changes)
    return gather(read_manifest(path), folder, store)


def test_code_runs_only_where_it_is_allowed(store: ArtifactStore, base: Path) -> None:
    """Neither reading nor gathering a manifest runs its Python; without leave nothing does."""
    path = write_digits(base)
    trap = base / "ran"
    (base / "digits.py").write_text(f"open({str(trap)!r}, 'w')\n" + "def make(): ...\n")
    manifest = gather(read_manifest(path), base, store)
    with pytest.raises(EvaluationError, match=r"is code.*allow it with --allow-code"):
        assemble(manifest, store, allow_code=False)
    assert not trap.exists()


def test_an_exported_program_is_code(store: ArtifactStore, base: Path) -> None:
    """torch.export's files hold pickles, so they need the same leave."""
    content = io.BytesIO()
    torch.export.save(torch.export.export(network(), (torch.rand(2, 1, 8, 8),)), content)
    (base / "m.pt2").write_bytes(content.getvalue())
    text = manifest_text()
    source = text[text.index("    kind: python") : text.index("  inputs:")]
    exported = (
        "    kind: exported\n    artifact: {kind: file, path: m.pt2, sha256: "
        f"{sha256(content.getvalue())!r}}}\n"
    )
    path = write_digits(base)
    path.write_text(
        text.replace(source, exported).replace("{predictor: torch}", "{predictor: torch-export}")
    )
    manifest = gather(read_manifest(path), base, store)
    with pytest.raises(EvaluationError, match=r"an exported program .* is code"):
        assemble(manifest, store, allow_code=False)


def test_pinned_code_is_checked(store: ArtifactStore, base: Path) -> None:
    """Code is recorded by its checksum; a manifest that names one refuses other code, and what was
    recorded is what runs, whatever the file says now.
    """
    manifest = ready(base, store)
    source = manifest.model.source
    assert source.kind == "python"
    assert source.make.sha256 == checksum(base / "digits.py")
    assert list(code_files(manifest, store)) == [source.make.sha256]
    (base / "digits.py").write_text("def make(): raise SystemExit\n")
    with assemble(manifest, store, allow_code=True) as made:
        assert made.answer([0, 1])["scores"].shape == (2, 10)
    assert gather(manifest, None, store) == manifest
    other = ArtifactStore(store.folder.parent / "other")
    with pytest.raises(EvaluationError, match="is another file"):
        gather(manifest, base, other)


def test_names_of_code_files_do_not_lead_out(store: ArtifactStore, base: Path) -> None:
    """A file of code is beside the manifest too."""
    (base.parent / "outside.py").write_text("def make(): ...\n")
    path = write_digits(base)
    path.write_text(path.read_text().replace("digits.py:make", "../outside.py:make"))
    with pytest.raises(EvaluationError, match="leads out of"):
        gather(read_manifest(path), base, store)


# ---- what files hold ----


def test_weights_that_would_run_code_are_refused(store: ArtifactStore, base: Path) -> None:
    """A pickle in place of a state dict is refused without being unpickled."""
    trap = base / "ran"

    class Evil:
        def __reduce__(self) -> Any:
            return (open, (str(trap), "w"))

    content = io.BytesIO()
    torch.save({"conv1.weight": Evil()}, content)
    weights = content.getvalue()
    path = write_digits(base)
    (base / "digits.pt").write_bytes(weights)
    path.write_text(path.read_text().replace(sha256(trained()[0]), sha256(weights)))
    manifest = gather(read_manifest(path), base, store)
    with pytest.raises(EvaluationError, match="not a state dict of plain tensors"):
        assemble(manifest, store, allow_code=True)
    assert not trap.exists()


@pytest.mark.parametrize("kind", ["pickle", "npy", "objects", "text"])
def test_data_that_is_no_npz_is_refused(kind: str, store: ArtifactStore, base: Path) -> None:
    """Pickled objects among arrays are not read."""
    buffer = io.BytesIO()
    if kind == "pickle":
        buffer.write(pickle.dumps({"image": [1]}))
    elif kind == "npy":
        np.save(buffer, np.zeros(3))
    elif kind == "objects":
        np.savez(buffer, image=np.array([{}, []], dtype=object), label=np.zeros(2))
    else:
        buffer.write(b"image,label\n")
    content = buffer.getvalue()
    path = write_digits(base)
    (base / "digits.npz").write_bytes(content)
    path.write_text(path.read_text().replace(sha256(trained()[1]), sha256(content)))
    manifest = gather(read_manifest(path), base, store)
    with pytest.raises(EvaluationError, match=r"npz") as caught:
        assemble(manifest, store, allow_code=True)
    assert "\n" not in str(caught.value)
