"""A generation on a GPU: prefill and every decode step are told apart, and tokens stay the same."""

from __future__ import annotations

import json
from typing import Any

import pandas as pd
import pytest
import torch

import xsp

transformers = pytest.importorskip("transformers")
pytestmark = pytest.mark.gpu

PROMPT, DECODED = 32, 64
QUICK: dict[str, Any] = {"iterations": 2, "warmup": 1, "progress": False}


@pytest.fixture(scope="module")
def gpt2() -> Any:
    """GPT-2 with random weights: no download, and tokens that depend on every layer."""
    torch.manual_seed(0)
    config = transformers.GPT2Config(bos_token_id=None, eos_token_id=None, pad_token_id=0)
    return transformers.GPT2LMHeadModel(config).cuda().eval()


def generated(model: Any) -> torch.Tensor:
    """A prompt and what greedy decoding adds: one prefill and 64 decode steps."""
    prompt = (torch.arange(PROMPT, device="cuda") * 37 % 50257).unsqueeze(0)
    tokens: torch.Tensor = model.generate(prompt, max_new_tokens=1 + DECODED, do_sample=False)
    return tokens


def assert_told_apart(calls: pd.DataFrame) -> None:
    """65 rows in order, each with time on host and device and kernels; the prefill has as many
    positions as the prompt, and the decode steps have one.
    """
    assert len(calls) == 1 + DECODED
    positions = [json.loads(shapes)[0][1] for shapes in calls["input_shapes"]]
    assert positions == [PROMPT] + [1] * DECODED
    assert (calls["host_ms"] > 0).all()
    assert (calls["device_ms"] > 0).all()
    assert (calls["kernels"] > 100).all()


def test_calls_of_a_generation_in_a_block(gpt2: Any) -> None:
    """In a block, each of the model's 65 calls is a row; tokens in the block and after it are those
    without xsp, and all kernels are in one of the calls.
    """
    expected = generated(gpt2)
    with xsp.profile(gpt2, **QUICK) as prof:
        found = generated(gpt2)
    assert torch.equal(found, expected)
    assert torch.equal(generated(gpt2), expected)
    calls = prof.calls()
    assert_told_apart(calls)
    assert calls["kernels"].sum() == prof.kernel_count
    assert not [each for each in prof.warnings if "left-out" in each or "changed" in each]


def test_calls_of_a_generation_measured_as_a_whole(gpt2: Any) -> None:
    """With `generate` as the target, calls of the model inside it are rows too."""
    expected = generated(gpt2)
    prof = xsp.measure(generated, gpt2, **QUICK)
    assert_told_apart(prof.calls("GPT2LMHeadModel"))
    assert torch.equal(generated(gpt2), expected)
