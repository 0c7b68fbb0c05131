"""`xsp run`: programs that know nothing of xsp run as under Python, and are profiled along."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from quick import TESTED
from torch import nn
from torch.optim import optimizer as optimizer_module

import xsp
from xsp.machine.dynamo_internals import compiled_frames
from xsp.measuring.options import Options
from xsp.profiles import Profile
from xsp.running.watcher import CALLS_IN_TRAINING, Found, Watcher

TRAINING = """
import sys
import torch
from torch import nn

def train(steps):
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(8, 16), nn.ReLU(), nn.Linear(16, 4))
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    scheduler = torch.optim.lr_scheduler.StepLR(optimizer, 10)
    criterion = nn.CrossEntropyLoss()
    for _ in range(steps):
        images, labels = torch.randn(4, 8), torch.randint(4, (4,))
        optimizer.zero_grad()
        loss = criterion(model(images), labels)
        loss.backward()
        optimizer.step()
        scheduler.step()
    return loss.item()

if __name__ == "__main__":
    print(sys.argv, __name__, __file__, sys.path[0])
    print(sys.stdin.read(), train(int(sys.argv[2])))
    sys.exit(3)
"""

ONCE = """
import multiprocessing
import sys
import torch
from torch import nn

class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.layer = nn.Linear(4, 4)

    def forward(self, x):
        print("forward", flush=True)
        return self.layer(x)

def work(number):
    return number, __name__, any(name.startswith("xsp") for name in sys.modules)

if __name__ == "__main__":
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        print(pool.map(work, [7]))
    Net().eval()(torch.ones(1, 4))
    print("end")
"""
SHORT = ("--iterations", "1", "--warmup", "0", "--levels", "M/L")


def ran(*arguments: str, cwd: Path, given: str = "") -> subprocess.CompletedProcess[str]:
    """What `xsp run` with these arguments does, on a terminal of 100 columns."""
    environment = {**os.environ, "COLUMNS": "100", "PYTHONPATH": str(TESTED)}
    return subprocess.run(
        [sys.executable, "-m", "xsp", "run", *arguments],
        cwd=cwd,
        env=environment,
        input=given,
        capture_output=True,
        text=True,
        timeout=250,
        check=False,
    )


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> tuple[Any, Path]:
    """A training script, run."""
    folder = tmp_path_factory.mktemp("trained")
    (folder / "train.py").write_text(TRAINING)
    arguments = (*SHORT, "-o", "train.xsp", "train.py", "-o", "40")
    return ran(*arguments, cwd=folder, given="told"), folder


def test_a_script_runs_as_under_python(trained: tuple[Any, Path]) -> None:
    """Its arguments, name, file, neighbours, standard input, losses, output and exit status are
    those without xsp; options after the script are its own.
    """
    outcome, folder = trained
    names: dict[str, Any] = {"__name__": "elsewhere"}
    exec(TRAINING, names)
    loss = names["train"](40)
    path = folder / "train.py"
    first = f"['train.py', '-o', '40'] __main__ {path} {folder.resolve()}\n"
    assert outcome.stdout == f"{first}told {loss}\n"
    assert outcome.returncode == 3


def test_a_training_loop_is_profiled_along(trained: tuple[Any, Path]) -> None:
    """Steps are those of the optimizer; layers, backward passes, optimizer and scheduler are rows,
    in the summary on standard error and in the capture.
    """
    outcome, folder = trained
    assert "profiled along" in outcome.stderr
    assert "SGD.step" in outcome.stderr
    prof = xsp.load(folder / "train.xsp")
    tree = prof.tree()
    assert {"0", "2", "CrossEntropyLoss", "SGD.step", "StepLR.step"} <= set(tree["name"])
    assert "backward" in set(tree["phase"])
    assert prof.name == "Sequential step"


@pytest.fixture(scope="module")
def once(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """A script that spawns a process and calls its model once."""
    folder = tmp_path_factory.mktemp("once")
    (folder / "once.py").write_text(ONCE)
    return ran(*SHORT, "once.py", cwd=folder)


def test_spawned_processes_run_without_xsp(once: Any) -> None:
    """A child imports the script as Python has it, and nothing of xsp."""
    assert once.stdout.startswith("[(7, '__mp_main__', False)]\n"), once.stderr


def test_a_single_call_is_made_again_in_silence(once: Any) -> None:
    """A model that was called once is profiled after the program's end; what it prints then is not
    in the program's output.
    """
    assert once.stdout.splitlines()[1:] == ["forward", "end"]
    assert "its call was made again after the program's end" in once.stderr
    assert "layer" in once.stderr
    assert once.returncode == 0


def test_without_torch_nothing_is_profiled(tmp_path: Path) -> None:
    """A script that never imports torch runs, keeps its status, and is told of in one line."""
    (tmp_path / "plain.py").write_text("import sys\nprint('out')\nsys.exit('gone')\n")
    outcome = ran("plain.py", cwd=tmp_path)
    assert (outcome.returncode, outcome.stdout) == (1, "out\n")
    assert "did not import torch, so nothing was profiled" in outcome.stderr
    assert outcome.stderr.endswith("gone\n")


def test_a_script_that_raises_shows_its_own_traceback(tmp_path: Path) -> None:
    """Status 1, and no frame of xsp."""
    (tmp_path / "raises.py").write_text("def own():\n    raise ValueError('own')\nown()\n")
    outcome = ran("raises.py", cwd=tmp_path)
    assert outcome.returncode == 1
    assert outcome.stderr.startswith("Traceback (most recent call last):\n")
    frames = [line for line in outcome.stderr.splitlines() if line.startswith("  File")]
    assert len(frames) == 2
    assert all("raises.py" in frame for frame in frames)


def test_a_module_runs_as_with_python(tmp_path: Path) -> None:
    """`-m` runs a package's __main__ with its arguments."""
    package = tmp_path / "package"
    package.mkdir()
    (package / "__init__.py").touch()
    (package / "__main__.py").write_text(
        "import sys\nfrom . import __name__ as mine\n"
        "print(sys.argv[1:], __name__, __package__, __spec__.name, mine)\n"
    )
    outcome = ran("-m", "package", "--flag", cwd=tmp_path)
    assert outcome.stdout == "['--flag'] __main__ package package.__main__ package\n"


@pytest.mark.parametrize("wanted", [["none.py"], ["-m", "there.is.none"]])
def test_what_is_not_there_is_refused(tmp_path: Path, wanted: list[str]) -> None:
    """One line says so, with status 2."""
    outcome = ran(*wanted, cwd=tmp_path)
    assert outcome.returncode == 2
    assert outcome.stderr.startswith("xsp: ")
    assert outcome.stderr.count("\n") == 1


def quick_options() -> Options:
    return Options.of(iterations=1, warmup=0, levels="M/L", progress=False)


@pytest.fixture
def watcher() -> Iterator[Watcher]:
    """Watches what the test does, as if it were the program."""
    made = Watcher(quick_options())
    made.start()
    # The program of this test has loaded the profiler; the watched one has not.
    profiler = sys.modules.pop("xsp.profiler", None)
    yield made
    made.finish(whole=False, interrupted=False)
    if profiler is not None:
        sys.modules["xsp.profiler"] = profiler


def net() -> nn.Sequential:
    return nn.Sequential(nn.Linear(4, 8), nn.ReLU()).eval()


def ended(watcher: Watcher) -> Found:
    return watcher.finish(whole=True, interrupted=False)


def test_calls_for_results_are_followed(watcher: Watcher) -> None:
    """Calls of the largest module with parameters are the steps, from the third on; losses and
    smaller models are not.
    """
    model, small = net(), nn.Linear(4, 1)
    for _ in range(30):
        small(torch.ones(2, 4))
        nn.ReLU()(model(torch.ones(2, 4)))
    found = ended(watcher)
    assert Profile(found.captures[""]).name == "Sequential"
    assert found.said == ["profiled along 6 calls: Sequential"]


def test_pytorch_is_as_it_was(watcher: Watcher) -> None:
    """After the end, nothing is replaced: neither calls nor an optimizer's step."""
    watcher.finish(whole=False, interrupted=False)
    before = nn.Module.__call__
    again = Watcher(quick_options())
    again.start()
    model = net().train()
    optimizer = torch.optim.Adam(model.parameters())
    for _ in range(4):
        model(torch.ones(2, 4)).sum().backward()
        optimizer.step()
    again.finish(whole=False, interrupted=False)
    assert nn.Module.__call__ is before
    assert "step" not in vars(optimizer)
    assert not optimizer_module._global_optimizer_post_hooks


def test_rounds_before_an_error_of_the_profile_are_kept() -> None:
    """Where a profile cannot go on, as after another rank has ended, the loop does: the error is
    said, and the rounds that were complete are shown.
    """

    def rank_lost(runs: Any) -> None:
        if runs[-1].round == 1:
            raise xsp.TargetError("rank 1 has ended")

    watcher = Watcher(Options.of(levels="M/L", warmup=0, stop=rank_lost, progress=False))
    watcher.start()
    model = net().train()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    profiler = sys.modules.pop("xsp.profiler", None)
    try:
        for _ in range(40):
            model(torch.ones(2, 4)).sum().backward()
            optimizer.step()
        found = watcher.finish(whole=True, interrupted=False)
    finally:
        if profiler is not None:
            sys.modules["xsp.profiler"] = profiler
    assert found.said[0] == "rank 1 has ended"
    assert Profile(found.captures[""]).runs["round"].nunique() == 2
    assert "step" not in vars(optimizer)


def test_a_step_may_take_several_optimizers(watcher: Watcher) -> None:
    """Two optimizers that take turns make one step together, each a row."""
    model = net().train()
    first = torch.optim.SGD(model[0].parameters(), lr=0.1)
    second = torch.optim.Adam([torch.zeros(1, requires_grad=True)])
    for _ in range(30):
        model(torch.ones(2, 4)).sum().backward()
        first.step()
        second.step()
    tree = Profile(ended(watcher).captures[""]).tree()
    assert {"SGD.step", "Adam.step"} <= set(tree["name"])


def frames_of_an_optimizer() -> int:
    """Frames that Dynamo compiles for an optimizer whose step is compiled, in four steps."""
    model = net().train()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    compiled = torch.compile(optimizer.step, backend="eager")
    before = compiled_frames()
    for _ in range(4):
        model(torch.ones(2, 4)).sum().backward()
        compiled()
    return compiled_frames() - before


def test_optimizers_are_compiled_as_without_xsp() -> None:
    """What waits for a step of an optimizer is not compiled into it."""
    without = frames_of_an_optimizer()
    torch.compiler.reset()
    watching = Watcher(Options.of(levels="M/L", progress=False))
    watching.start()
    try:
        assert frames_of_an_optimizer() == without
    finally:
        watching.finish(whole=False, interrupted=False)


def test_validation_before_training_is_not_the_loop(watcher: Watcher) -> None:
    """Calls that are followed give way to a training loop once an optimizer steps."""
    model = net()
    with torch.no_grad():
        for _ in range(6):
            model(torch.ones(2, 4))
    model.train()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    for _ in range(30):
        model(torch.ones(2, 4)).sum().backward()
        optimizer.step()
    found = ended(watcher)
    assert "SGD.step" in set(Profile(found.captures[""]).tree()["name"])


def test_a_model_in_training_mode_is_waited_for(watcher: Watcher) -> None:
    """Without a step of an optimizer, calls in training mode are followed after some more."""
    model = net().train()
    for _ in range(CALLS_IN_TRAINING + 20):
        model(torch.ones(2, 4))
    assert ended(watcher).said == ["profiled along 6 calls: Sequential"]


def test_too_few_steps_are_told(watcher: Watcher) -> None:
    """The reason is said, and the first calls are made again without what trains."""
    model = net().train()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    for _ in range(5):
        model(torch.ones(2, 4)).sum().backward()
        optimizer.step()
    found = ended(watcher)
    assert "too few to measure one round" in found.said[0]
    assert "its first 2 calls were made again" in found.said[1]
    assert "without a backward pass" in found.said[1]
    assert "0" in set(Profile(found.captures[""]).tree()["name"])


def test_a_program_that_raised_is_not_run_again(watcher: Watcher) -> None:
    """Its calls are not made again; complete rounds are kept."""
    net()(torch.ones(2, 4))
    assert watcher.finish(whole=False, interrupted=False).captures == {}


def test_a_program_that_profiles_itself_is_left_alone(watcher: Watcher) -> None:
    """Where the program has loaded xsp's profiler, nothing is followed, and this is said."""
    sys.modules["xsp.profiler"] = sys.modules["xsp.profiles"]
    model = net()
    for _ in range(4):
        model(torch.ones(2, 4))
    del sys.modules["xsp.profiler"]
    found = ended(watcher)
    assert found.captures == {}
    assert found.said == ["the program profiles itself with xsp: run it with python"]


def test_where_nothing_was_called_this_is_said(watcher: Watcher) -> None:
    """A program without a model says so, with the way out."""
    torch.ones(2).sum()
    (said,) = ended(watcher).said
    assert "no module with parameters was called" in said
    assert "xsp.measure(function)" in said
