"""Files are written whole or not at all, in the place that was named, and over regular files only.

Every kind of file that xsp writes is tried: WRITERS.
"""

from __future__ import annotations

import os
import resource
import stat
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path, PurePosixPath
from typing import Any

import pytest
from quick import TESTED

import xsp
from xsp.capture.writing import staged_folder
from xsp.cli import main
from xsp.comparing.comparable import comparable
from xsp.export.tables import write_tables
from xsp.machine import peak_file
from xsp.regression.baselines import Baseline, Baselines
from xsp.regression.summary import write_pages as summaries

CAPTURE = Path(__file__).parent.parent / "examples" / "captures" / "h100_resnet50.xsp"
Write = Callable[[xsp.Profile, Path], object]


def _baseline(prof: xsp.Profile, folder: Path) -> Path:
    baseline = Baseline.measured("test_a", "2026-01-01", comparable(prof), {})
    return Baselines(folder, "main").write(PurePosixPath("a.json"), baseline)


def _peaks(_: xsp.Profile, folder: Path) -> Path:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_CACHE_HOME", str(folder))
        return peak_file.keep_peaks("a GPU" * 100, {"dram_bytes_per_s": 1e12})


FILES: dict[str, Write] = {
    "capture": lambda prof, path: prof.save(path),
    "html": lambda prof, path: prof.to_html(path),
    "perfetto": lambda prof, path: prof.to_perfetto(path),
    "chrome": lambda prof, path: prof.to_chrome(path),
    "comparison": lambda prof, path: xsp.compare(prof, prof).to_html(path),
    "summary": lambda _, path: summaries([], str(path), None),
}
FOLDERS: dict[str, Write] = {
    "csv": lambda prof, folder: write_tables(prof, folder, "csv"),
    "parquet": lambda prof, folder: write_tables(prof, folder, "parquet"),
    "sweep": lambda prof, folder: xsp.Sweep("batch_size", {1: prof, 2: prof}).save(folder),
    "baseline": _baseline,
    "peaks": _peaks,
}


@pytest.fixture(scope="module")
def prof() -> xsp.Profile:
    """ResNet-50 on an H100."""
    return xsp.load(CAPTURE)


@contextmanager
def full_after(size: int) -> Iterator[None]:
    """Files cannot grow beyond `size` bytes, as on a disk that fills up."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def everything(folder: Path) -> dict[str, bytes]:
    """Content of each file below a folder by its path."""
    files = (path for path in folder.rglob("*") if path.is_file())
    return {str(path.relative_to(folder)): path.read_bytes() for path in files}


@pytest.mark.parametrize("kind", FILES)
def test_a_full_disk_leaves_the_old_file(kind: str, prof: xsp.Profile, tmp_path: Path) -> None:
    """Where the disk is full the error names the file, the old one stays, and nothing else lies
    there.
    """
    path = tmp_path / "a.out"
    path.write_bytes(b"before")
    with full_after(100), pytest.raises(xsp.WriteError, match=r"a\.out.*too large"):
        FILES[kind](prof, path)
    assert everything(tmp_path) == {"a.out": b"before"}


@pytest.mark.parametrize("size", [100, 20_000])
@pytest.mark.parametrize("kind", FOLDERS)
def test_a_full_disk_leaves_the_old_folder(
    kind: str, size: int, prof: xsp.Profile, tmp_path: Path
) -> None:
    """A folder of files is written whole or stays as it was, where it was new and where not."""
    write, folder = FOLDERS[kind], tmp_path / "out"
    size = min(size, 400) if kind == "peaks" else size
    with full_after(size), pytest.raises(xsp.XspError, match="cannot be written"):
        write(prof, folder)
    assert everything(tmp_path) == {}
    write(prof, folder)
    before = everything(tmp_path)
    with full_after(size), pytest.raises(xsp.XspError, match="cannot be written"):
        write(prof, folder)
    assert everything(tmp_path) == before


@pytest.mark.parametrize("kind", FILES)
def test_symlinks_are_followed_and_modes_kept(kind: str, prof: xsp.Profile, tmp_path: Path) -> None:
    """What a symlink leads to is replaced, not the symlink, and stays as private as it was."""
    (tmp_path / "real").mkdir()
    real, link = tmp_path / "real" / "a", tmp_path / "link"
    real.write_bytes(b"before")
    real.chmod(0o600)
    link.symlink_to(real)
    FILES[kind](prof, link)
    assert link.is_symlink()
    assert real.read_bytes() != b"before"
    assert stat.S_IMODE(real.stat().st_mode) == 0o600
    assert sorted(path.name for path in tmp_path.rglob("*")) == ["a", "link", "real"]


@pytest.mark.parametrize("kind", FILES)
def test_pipes_and_devices_stay(kind: str, prof: xsp.Profile, tmp_path: Path) -> None:
    """What is no regular file is refused with what it is, and stands there afterwards."""
    pipe, device = tmp_path / "pipe", tmp_path / "null"
    os.mkfifo(pipe)
    device.symlink_to(os.devnull)
    for path, what in ((pipe, "a pipe"), (device, "a device"), (tmp_path, "a directory")):
        with pytest.raises(xsp.WriteError, match=f"{path.name}.*is {what}"):
            FILES[kind](prof, path)
    assert stat.S_ISFIFO(pipe.stat().st_mode)
    assert stat.S_ISCHR(Path(os.devnull).stat().st_mode)


def test_new_files_have_the_mode_of_the_umask(prof: xsp.Profile, tmp_path: Path) -> None:
    """A new file is readable for whom the user's umask says, as any program's is."""
    before = os.umask(0o027)
    try:
        path = prof.save(tmp_path / "a.xsp")
    finally:
        os.umask(before)
    assert stat.S_IMODE(path.stat().st_mode) == 0o640


def test_names_of_others_are_never_touched(prof: xsp.Profile, tmp_path: Path) -> None:
    """Files that look like unfinished ones of xsp, and links under such names, are left alone."""
    victim = tmp_path / "victim"
    victim.write_bytes(b"precious")
    (tmp_path / "a.xsp.partial").symlink_to(victim)
    (tmp_path / ".xsp-0.partial").write_bytes(b"mine")
    prof.save(tmp_path / "a.xsp")
    assert victim.read_bytes() == b"precious"
    assert (tmp_path / "a.xsp.partial").is_symlink()
    assert (tmp_path / ".xsp-0.partial").read_bytes() == b"mine"


def test_long_names_can_be_written(prof: xsp.Profile, tmp_path: Path) -> None:
    """Any name that the file system takes, 255 bytes, can be written."""
    assert prof.save(tmp_path / ("a" * 251 + ".xsp")).is_file()


def test_processes_that_save_to_one_path_disturb_nobody(tmp_path: Path) -> None:
    """While two processes save to one path again and again, every load finds a whole capture."""
    path = tmp_path / "a.xsp"
    code = (
        "import sys, xsp\nprof = xsp.load(sys.argv[1])\nfor _ in range(8): prof.save(sys.argv[2])\n"
    )
    xsp.load(CAPTURE).save(path)
    command = [sys.executable, "-c", code, str(CAPTURE), str(path)]
    savers = [subprocess.Popen(command, stderr=subprocess.PIPE, cwd=TESTED) for _ in range(2)]
    loads = 0
    while any(saver.poll() is None for saver in savers):
        assert len(xsp.load(path).runs)
        loads += 1
    assert [saver.communicate()[1] for saver in savers] == [b"", b""]
    assert loads > 3
    assert list(tmp_path.iterdir()) == [path]


TARGET = "def target():\n    open({marker!r}, 'w').close()\n    return lambda: None\n"


@pytest.fixture
def target(tmp_path: Path) -> tuple[Path, Path]:
    """A target file that leaves a marker when it is asked for what to measure, and the marker."""
    marker, file = tmp_path / "measured", tmp_path / "made.py"
    file.write_text(TARGET.format(marker=str(marker)))
    return file, marker


def refused(capsys: pytest.CaptureFixture[str], *arguments: object) -> str:
    """What a command that fails says, which is one line; its status is 2."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "argv", ["xsp", *map(str, arguments)])
        with pytest.raises(SystemExit) as caught:
            main()
    assert caught.value.code == 2
    said = capsys.readouterr().err
    assert said.startswith("xsp: ")
    assert said.count("\n") == 1
    return said


@pytest.mark.parametrize("output", ["/dev/full", "no/such/folder/a.xsp", "/proc/a.xsp"])
def test_a_target_that_cannot_be_written_is_found_before_measuring(
    output: str, target: tuple[Path, Path], capsys: pytest.CaptureFixture[str]
) -> None:
    """`xsp profile` refuses a device, a missing folder and a folder that takes no files at once."""
    file, marker = target
    said = refused(capsys, "profile", file, "--output", output, "--force")
    assert Path(output).name in said
    assert not marker.exists()


def test_a_sweep_that_cannot_be_written_is_found_before_measuring(
    target: tuple[Path, Path], capsys: pytest.CaptureFixture[str]
) -> None:
    """`xsp sweep` too asks first."""
    file, marker = target
    assert "is a file" in refused(capsys, "sweep", file, "--output", file)
    assert "/proc/a" in refused(capsys, "sweep", file, "--output", "/proc/a")
    assert not marker.exists()


def test_a_measurement_that_cannot_be_saved_is_kept_elsewhere(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where the folder is gone when the measurement has ended, the capture is kept and the message
    says where.
    """
    folder = tmp_path / "gone"
    folder.mkdir()
    file = tmp_path / "vanishing.py"
    file.write_text(
        f"import os\ndef target():\n    os.path.isdir({str(folder)!r}) and os.rmdir("
        f"{str(folder)!r})\n    return lambda: None\n"
    )
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    options = ["--iterations", 1, "--warmup", 1, "--quiet", "--output", folder / "a.xsp"]
    said = refused(capsys, "profile", file, *options)
    kept = Path(said.partition("kept in '")[2].partition("'")[0])
    assert kept.name == "a.xsp"
    assert len(xsp.load(kept).runs)


@pytest.mark.parametrize(
    "command",
    [
        ["report", "{capture}", "--html", "{bad}"],
        ["compare", "{capture}", "{capture}", "--html", "{bad}"],
        ["compare", "{capture}", "{capture}", "-o", "{bad}"],
        ["export", "{capture}", "--to", "perfetto", "--output", "{bad}", "--force"],
        ["export", "{capture}", "--to", "csv", "--output", "{bad}"],
    ],
)
def test_every_command_refuses_in_one_line(
    command: list[Any], capsys: pytest.CaptureFixture[str]
) -> None:
    """A device is refused by every command that writes, with status 2 and one line, and stays."""
    values = {"capture": CAPTURE, "bad": "/dev/full"}
    said = refused(capsys, *(word.format(**values) for word in command))
    assert "/dev/full" in said
    assert stat.S_ISCHR(Path("/dev/full").stat().st_mode)


def test_the_file_that_says_a_folder_is_complete_is_written_last(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Over an older folder, the named file is replaced after all others, whatever its name: a
    folder with the new one has the rest. What else lies there stays.
    """
    moved: list[str] = []
    replace = Path.replace

    def noted(self: Path, target: Any) -> Path:
        moved.append(Path(target).name)
        return replace(self, target)

    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "mine").write_text("stays")
    monkeypatch.setattr(Path, "replace", noted)
    for last in ("a", "b", "c"):
        moved.clear()
        with staged_folder(tmp_path / "out", last=last) as staged:
            for name in ("c", "a", "b"):
                (staged / name).write_text(last)
        assert sorted(moved) == ["a", "b", "c"]
        assert moved[-1] == last
    assert everything(tmp_path) == {
        "out/mine": b"stays",
        **{f"out/{name}": b"c" for name in "abc"},
    }
