"""An engine that serves requests on a thread or in a process of its own, profiled step by step."""

from __future__ import annotations

import asyncio
import multiprocessing
import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from quick import TESTED
from torch.overrides import _get_current_function_mode_stack

import xsp

EXAMPLES = Path(__file__).parents[1] / "examples"
sys.path.append(str(EXAMPLES))

import plain_engine as engines  # noqa: E402 - examples, from their folder
import serving_engine as recipe  # noqa: E402

QUICK: dict[str, Any] = {"levels": "M/L", "iterations": 2, "warmup": 0, "progress": False}
REQUESTS = 12


@pytest.fixture
def engine() -> Iterator[engines.Engine]:
    """The engine of the example, which runs until the test ends."""
    made = engines.Engine()
    yield made
    made.close()


@pytest.fixture(scope="module")
def measured() -> Iterator[tuple[Any, list[list[int]]]]:
    """A profile of the engine while it served, and the tokens that its clients were given."""
    made = engines.Engine()
    yield recipe.profiled(made, REQUESTS, **QUICK)
    made.close()


def served(engine: engines.Engine, requests: int) -> list[list[int]]:
    return asyncio.run(engines.clients(engine, requests))


def state_of(engine: engines.Engine) -> dict[str, Any]:
    """What a profile could leave: attributes of the runner and of modules."""
    modules = {name: sorted(vars(module)) for name, module in engine.runner.model.named_modules()}
    return {"runner": sorted(vars(engine.runner)), **modules}


def test_clients_get_the_tokens_that_they_get_without_a_profile(
    engine: engines.Engine, measured: tuple[Any, list[list[int]]]
) -> None:
    """Requests are answered as without xsp, token for token."""
    _, tokens = measured
    assert tokens == served(engine, REQUESTS)


def test_steps_are_grouped_by_what_they_are(measured: tuple[Any, list[list[int]]]) -> None:
    """Prefill and decode are profiles of their own, each with the layers of its steps and the
    shapes that the model was given.
    """
    prof, _ = measured
    assert prof.name == "Decoder execute_model (decode of 4)"
    assert set(prof.groups) == {"prefill of 4"}
    (decode,) = prof.calls().to_dict("records")
    (prefill,) = prof.groups["prefill of 4"].calls().to_dict("records")
    assert decode["input_shapes"] == "[[4, 1], [4], [4, 1]]"
    assert prefill["input_shapes"] == "[[1, 4], [1], [1, 4]]"
    for part in (prof, prof.groups["prefill of 4"]):
        assert part.runs["round"].max() == 1
        assert not part.runs["unmatched"].any()
        assert {"blocks.0.attention.qkv", "step::argmax"} <= set(part.table("layers")["name"])
    assert len(prof.calls("Block")) == engines.BLOCKS


def test_nothing_is_left_where_the_block_ends_first(engine: engines.Engine) -> None:
    """A block that ends while the engine is idle, its rounds not done, leaves the model as it was;
    the engine's thread drops the rest at its next step, and serves on.
    """
    before = state_of(engine)
    runner = engine.runner
    with xsp.profile(runner.model, along=runner.execute_model, iterations=50, levels="M/L") as prof:
        served(engine, REQUESTS)
    assert prof.runs["round"].max() < 50
    left: list[Any] = []

    def looks(*_: Any) -> None:
        left.append(list(_get_current_function_mode_stack()))

    served(engine, 1)
    handle = runner.model.register_forward_hook(looks)
    assert served(engine, 2) == served(engine, 2)
    handle.remove()
    assert left
    assert not any(left)
    assert state_of(engine) == before


def test_a_profile_follows_another_whose_thread_has_ended() -> None:
    """An engine that is closed while its profile is on gives the process back to other profiles."""
    first = engines.Engine()
    runner = first.runner
    with xsp.profile(runner.model, along=runner.execute_model, iterations=50, levels="M/L"):
        served(first, REQUESTS)
        first.close()
    assert "execute_model" not in vars(runner)
    prof = xsp.measure(torch.nn.Linear(2, 2), torch.ones(1, 2), **QUICK)
    assert prof.runs["round"].max() == 1


def test_a_call_that_raises_is_the_programs_own(engine: engines.Engine) -> None:
    """The caller gets the exception, and the step is of a kind of its own."""
    runner = engine.runner
    slot = engines.Request([1, 2, 3, 4], 1, slot=0)
    bad = engines.Request([1, 2, engines.WORDS], 1, slot=0)
    with xsp.profile(runner.model, along=runner.execute_model, **QUICK) as prof:
        for number in range(30):
            if number == 6:
                with pytest.raises(IndexError):
                    runner.execute_model([bad])
            runner.execute_model([slot])
    assert prof.runs["round"].max() == 1
    assert any("other work" in each for each in prof.warnings)


def test_what_is_no_step_is_refused(engine: engines.Engine) -> None:
    """A function that no object has, a coroutine, a kind without a method and an engine that made
    no step: one sentence each.
    """
    model = engine.runner.model
    for wrong in (lambda: None, recipe.kind_of, len):
        with pytest.raises(xsp.TargetError, match="a method of an object"):
            enter(xsp.profile(model, along=wrong))
    with pytest.raises(xsp.TargetError, match="gives a coroutine"):
        enter(xsp.profile(model, along=engine.generate))
    with pytest.raises(xsp.TargetError, match="give that method as along="):
        xsp.profile(model, along=True, kind=recipe.kind_of)
    with pytest.raises(xsp.NothingRecordedError, match="was not called in the block"):
        enter(xsp.profile(model, along=engine.runner.execute_model))
    assert "execute_model" not in vars(engine.runner)


def test_a_model_that_another_thread_calls_needs_the_method(engine: engines.Engine) -> None:
    """With `along=True` its calls are not those of the block's thread; the error says what to
    give.
    """
    with (
        pytest.raises(xsp.NothingRecordedError, match="on another thread only"),
        xsp.profile(engine.runner.model, along=True),
    ):
        served(engine, 2)
    assert "_call_impl" not in vars(engine.runner.model)


def enter(block: xsp.profile) -> None:
    with block:
        pass


def test_other_threads_calls_are_no_steps(engine: engines.Engine) -> None:
    """Only the thread that calls first is followed; calls of others are made as ever."""
    runner = engine.runner
    slot = engines.Request([1, 2, 3, 4], 1, slot=0)
    answers: list[Any] = []
    with xsp.profile(runner.model, along=runner.execute_model, **QUICK) as prof:
        for _ in range(20):
            answers.append(runner.execute_model([slot]))
            other = threading.Thread(target=lambda: answers.append(runner.execute_model([slot])))
            other.start()
            other.join()
    assert len({tuple(each) for each in answers}) == 1
    assert len(answers) == 40
    assert prof.runs["round"].max() == 1
    assert not prof.runs["unmatched"].any()


def test_an_unmodified_engine_is_profiled_by_xsp_run(
    tmp_path: Path, engine: engines.Engine
) -> None:
    """`xsp run` follows the model on whichever thread calls it, and clients get the same tokens as
    without it.
    """
    script, out = str(EXAMPLES / "plain_engine.py"), tmp_path / "engine.xsp"
    options = ("--levels", "M/L", "--iterations", "2", "--warmup", "0", "-o", str(out))
    command = [sys.executable, "-m", "xsp", "run", *options, script, str(REQUESTS)]
    environment = {**os.environ, "PYTHONPATH": str(TESTED), "OMP_NUM_THREADS": "1"}
    traced = subprocess.run(
        command, capture_output=True, text=True, check=False, timeout=240, env=environment
    )
    assert traced.returncode == 0, traced.stderr
    answers = [[int(word) for word in line.split()] for line in traced.stdout.splitlines()]
    assert answers == served(engine, REQUESTS)
    assert "profiled along" in traced.stderr
    prof = xsp.load(out)
    assert prof.name == "Decoder"
    assert {"blocks.0.attention.qkv", "head"} <= set(prof.table("layers")["name"])


def test_a_worker_process_makes_the_profile_of_its_engine(
    tmp_path: Path, engine: engines.Engine
) -> None:
    """Where the engine has a process of its own the profile is made there, and read elsewhere."""
    answers: Any = multiprocessing.get_context("spawn").Queue()
    process = multiprocessing.get_context("spawn").Process(
        target=recipe.worker, args=(answers, str(tmp_path / "worker.xsp"), REQUESTS)
    )
    process.start()
    tokens = answers.get(timeout=240)
    process.join()
    assert process.exitcode == 0
    assert tokens == served(engine, REQUESTS)
    assert xsp.load(tmp_path / "worker.xsp").name == "Decoder execute_model (decode of 4)"


class Stand:
    """What the recipe for vLLM needs of it: workers of which the class is made of its own and the
    one that is named, and prompts that these answer.
    """

    def __init__(self, engine: engines.Engine) -> None:
        self.names: dict[str, Any] = {"xsp": xsp, "llm": self, "prompts": REQUESTS * 4}
        self._engine = engine
        self._worker: Any = None

    def collective_rpc(self, method: str, args: tuple[Any, ...] = ()) -> Any:
        if self._worker is None:
            self._worker = type("Worker", (self.names["ProfiledWorker"],), {})()
            self._worker.model_runner = self._engine.runner
            model = self._engine.runner.model
            vars(self._engine.runner)["get_model"] = lambda: model
        return getattr(self._worker, method)(*args)

    def generate(self, prompts: int) -> None:
        served(self._engine, prompts)


def test_the_recipe_for_vllm_makes_a_profile(
    engine: engines.Engine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The block of the page, as it stands there, in an engine with the same names: two calls from
    outside begin a profile of the worker's steps and write it. After its next step the runner is as
    it was.
    """
    page = (Path(__file__).parents[1] / "docs" / "engines.md").read_text()
    (block,) = (each for each in page.split("```python\n")[1:] if "class ProfiledWorker" in each)
    monkeypatch.chdir(tmp_path)
    stand, before = Stand(engine), state_of(engine)
    exec(block.partition("```")[0], stand.names)
    prof = xsp.load(tmp_path / "worker.xsp")
    assert prof.name.startswith("Decoder execute_model")
    assert "blocks.0.attention.qkv" in set(prof.table("layers")["name"])
    assert prof.runs["round"].max() > 0
    served(engine, 1)
    del vars(engine.runner)["get_model"]
    assert state_of(engine) == before
