"""An engine that serves requests, profiled step by step while it serves: the recipe.

    python examples/serving_engine.py [--worker]

`profiled` is all there is to it. Nothing in the engine (plain_engine.py) knows of xsp, and no step
is made twice. With --worker the engine has a process of its own, as vLLM's EngineCore and SGLang's
scheduler have, and the profile is made there.
"""

from __future__ import annotations

import asyncio
import multiprocessing
import sys
from typing import Any

from plain_engine import Engine, Request, clients

import xsp


def kind_of(requests: list[Request]) -> str:
    """What a step is, given what the model runner is: the prefill of a prompt of so many tokens, or
    a decode step of so many requests.
    """
    if not requests[0].tokens:
        return f"prefill of {len(requests[0].prompt)}"
    return f"decode of {len(requests)}"


def profiled(engine: Engine, requests: int, **options: Any) -> tuple[Any, list[list[int]]]:
    """The recipe: steps of the engine measured while it serves. Returns the profile, and the tokens
    that the clients were given.
    """
    runner = engine.runner
    with xsp.profile(runner.model, along=runner.execute_model, kind=kind_of, **options) as prof:
        tokens = asyncio.run(clients(engine, requests))
    return prof, tokens


def shown(prof: Any) -> None:
    """What each kind of steps takes, and where."""
    for part in (prof, *prof.groups.values()):
        print(f"{part.name}: {part.latency_ms:.3f} ms a step")
    print(prof)


def worker(answers: Any, path: str, requests: int) -> None:
    """A process that has the engine for itself, and so makes the profile."""
    engine = Engine()
    prof, tokens = profiled(engine, requests, iterations=2, warmup=0, levels="M/L")
    engine.close()
    prof.save(path)
    answers.put(tokens)


def main() -> None:
    """Serve some requests, and show what their steps took."""
    if "--worker" not in sys.argv[1:]:
        engine = Engine()
        prof, _ = profiled(engine, 64)
        engine.close()
        shown(prof)
        return
    context = multiprocessing.get_context("spawn")
    answers = context.Queue()
    process = context.Process(target=worker, args=(answers, "worker.xsp", 64))
    process.start()
    answers.get()
    process.join()
    print(xsp.load("worker.xsp"))


if __name__ == "__main__":
    main()
