"""A small engine that serves requests with continuous batching, and knows nothing of xsp.

    xsp run examples/plain_engine.py

It is built as vLLM and SGLang are: an asyncio front end hands requests to a scheduler whose loop
runs on a thread of its own. A step of the scheduler is either a prefill of one new request or one
token for every running request, and a model runner makes it in a cache of fixed size. Weights are
random: the tokens mean nothing.
"""

from __future__ import annotations

import asyncio
import queue
import sys
import threading
from concurrent.futures import Future
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import nn

WORDS, WIDTH, HEADS, BLOCKS = 64, 32, 4, 2
SLOTS, LONGEST = 4, 64
"""Requests that run at once, and tokens of each: the cache is so large from the beginning."""


class Attention(nn.Module):
    """Attention over what each request's slot of the cache holds."""

    keys: torch.Tensor
    values: torch.Tensor

    def __init__(self) -> None:
        super().__init__()
        self.qkv = nn.Linear(WIDTH, 3 * WIDTH)
        self.out = nn.Linear(WIDTH, WIDTH)
        self.register_buffer("keys", torch.zeros(SLOTS, LONGEST, WIDTH), persistent=False)
        self.register_buffer("values", torch.zeros(SLOTS, LONGEST, WIDTH), persistent=False)

    def forward(self, x: torch.Tensor, slots: torch.Tensor, places: torch.Tensor) -> torch.Tensor:
        """`x` is (requests, tokens, WIDTH), `slots` (requests,), `places` (requests, tokens)."""
        query, key, value = self.qkv(x).chunk(3, dim=-1)
        self.keys[slots[:, None], places] = key
        self.values[slots[:, None], places] = value
        seen = torch.arange(LONGEST, device=x.device) <= places[..., None]
        mixed = nn.functional.scaled_dot_product_attention(
            heads(query), heads(self.keys[slots]), heads(self.values[slots]), seen[:, None]
        )
        out: torch.Tensor = self.out(mixed.transpose(1, 2).flatten(2))
        return out


def heads(x: torch.Tensor) -> torch.Tensor:
    """`(requests, tokens, WIDTH)` as `(requests, HEADS, tokens, WIDTH / HEADS)`."""
    return x.view(*x.shape[:-1], HEADS, -1).transpose(1, 2)


class Block(nn.Module):
    """A transformer block."""

    def __init__(self) -> None:
        super().__init__()
        self.norm, self.attention = nn.LayerNorm(WIDTH), Attention()
        self.last, self.mlp = nn.LayerNorm(WIDTH), nn.Linear(WIDTH, WIDTH)

    def forward(self, x: torch.Tensor, slots: torch.Tensor, places: torch.Tensor) -> torch.Tensor:
        """As of `Attention`."""
        x = x + self.attention(self.norm(x), slots, places)
        out: torch.Tensor = x + nn.functional.gelu(self.mlp(self.last(x)))
        return out


class Decoder(nn.Module):
    """A decoder with its cache; gives the logits of each request's last token."""

    def __init__(self) -> None:
        super().__init__()
        self.words, self.places = nn.Embedding(WORDS, WIDTH), nn.Embedding(LONGEST, WIDTH)
        self.blocks = nn.ModuleList(Block() for _ in range(BLOCKS))
        self.head = nn.Linear(WIDTH, WORDS, bias=False)

    def forward(
        self, tokens: torch.Tensor, slots: torch.Tensor, places: torch.Tensor
    ) -> torch.Tensor:
        """`tokens` and `places` are (requests, tokens)."""
        x = self.words(tokens) + self.places(places)
        for block in self.blocks:
            x = block(x, slots, places)
        logits: torch.Tensor = self.head(x[:, -1])
        return logits


@dataclass
class Request:
    """A prompt and how many tokens are wanted; `tokens` grows, `done` gets those made."""

    prompt: list[int]
    wanted: int
    done: Future[list[int]] = field(default_factory=Future)
    tokens: list[int] = field(default_factory=list)
    slot: int = -1


class ModelRunner:
    """Makes one step of the model."""

    def __init__(self, device: str = "cpu") -> None:
        torch.manual_seed(0)
        self.device = device
        self.model = Decoder().eval().to(device)

    @torch.inference_mode()
    def execute_model(self, requests: list[Request]) -> list[int]:
        """One token for each: a request without tokens has its whole prompt read."""
        first = not requests[0].tokens
        rows = [each.prompt if first else each.tokens[-1:] for each in requests]
        ends = [len(each.prompt) + len(each.tokens) for each in requests]
        places = [list(range(end - len(row), end)) for row, end in zip(rows, ends, strict=True)]
        slots = [each.slot for each in requests]
        logits = self.model(self.tensor(rows), self.tensor(slots), self.tensor(places))
        made: list[int] = logits.argmax(-1).tolist()
        return made

    def tensor(self, values: Any) -> torch.Tensor:
        """Numbers of the host, on the device."""
        return torch.tensor(values, device=self.device)


class Scheduler:
    """The loop: admits what waits into free slots, and makes a step after the other."""

    def __init__(self, runner: ModelRunner) -> None:
        self.runner = runner
        self.waiting: queue.Queue[Request | None] = queue.Queue()
        self.running: list[Request] = []
        self.free = list(range(SLOTS))

    def loop(self) -> None:
        """Until None waits."""
        while True:
            if not self.running or (self.free and not self.waiting.empty()):
                request = self.waiting.get()
                if request is None:
                    return
                request.slot = self.free.pop()
                self.running.append(request)
                self.step([request])
            else:
                self.step(list(self.running))

    def step(self, requests: list[Request]) -> None:
        """One step for these, of which some may be finished then."""
        for request, token in zip(requests, self.runner.execute_model(requests), strict=True):
            request.tokens.append(token)
            if len(request.tokens) == request.wanted:
                self.running.remove(request)
                self.free.append(request.slot)
                request.done.set_result(request.tokens)


class Engine:
    """The front end of a scheduler on a thread of this process."""

    def __init__(self, device: str = "cpu") -> None:
        self.runner = ModelRunner(device)
        self.scheduler = Scheduler(self.runner)
        self.thread = threading.Thread(target=self.scheduler.loop, name="scheduler", daemon=True)
        self.thread.start()

    async def generate(self, prompt: list[int], wanted: int) -> list[int]:
        """The tokens that follow a prompt."""
        request = Request(prompt, wanted)
        self.scheduler.waiting.put(request)
        return await asyncio.wrap_future(request.done)

    def close(self) -> None:
        """End the loop, once nothing runs."""
        self.scheduler.waiting.put(None)
        self.thread.join()


async def clients(engine: Engine, number: int, wanted: int = 12) -> list[list[int]]:
    """So many requests with prompts of 4 tokens, all at once."""
    prompts = [[number % WORDS, 1, 2, 3] for number in range(number)]
    return list(await asyncio.gather(*(engine.generate(each, wanted) for each in prompts)))


if __name__ == "__main__":
    requests = int(sys.argv[1]) if len(sys.argv) > 1 else 64
    engine = Engine()
    for tokens in asyncio.run(clients(engine, requests)):
        print(*tokens)
    engine.close()
