"""GPT-2 small inference over one prompt, in plain PyTorch.

Run it (`python examples/transformer.py`), or hand it to the command line
(`xsp profile examples/transformer.py`), which calls `target()`.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn import functional

import xsp

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
DTYPE = torch.float16 if DEVICE == "cuda" else torch.float32
BATCH = 1
TOKENS = 64

LAYERS, HEADS, WIDTH, VOCABULARY, POSITIONS = 12, 12, 768, 50257, 1024


class Attention(nn.Module):
    """Causal multi-head self-attention with one fused projection for queries, keys and values."""

    def __init__(self) -> None:
        super().__init__()
        self.c_attn = nn.Linear(WIDTH, 3 * WIDTH)
        self.c_proj = nn.Linear(WIDTH, WIDTH)

    def forward(self, x: Tensor) -> Tensor:
        """Map (N, tokens, WIDTH) to the same shape."""
        batch, tokens, _ = x.shape
        heads = self.c_attn(x).view(batch, tokens, 3, HEADS, WIDTH // HEADS)
        query, key, value = heads.permute(2, 0, 3, 1, 4).unbind(0)
        out = functional.scaled_dot_product_attention(query, key, value, is_causal=True)
        return self.c_proj(out.transpose(1, 2).reshape(batch, tokens, WIDTH))  # type: ignore[no-any-return]


class MLP(nn.Module):
    """Two linear layers around GPT-2's tanh form of GELU."""

    def __init__(self) -> None:
        super().__init__()
        self.c_fc = nn.Linear(WIDTH, 4 * WIDTH)
        self.gelu = nn.GELU(approximate="tanh")
        self.c_proj = nn.Linear(4 * WIDTH, WIDTH)

    def forward(self, x: Tensor) -> Tensor:
        """Map (N, tokens, WIDTH) to the same shape."""
        return self.c_proj(self.gelu(self.c_fc(x)))  # type: ignore[no-any-return]


class Block(nn.Module):
    """Attention, then MLP, each normalised before and added to its input."""

    def __init__(self) -> None:
        super().__init__()
        self.ln_1 = nn.LayerNorm(WIDTH)
        self.attn = Attention()
        self.ln_2 = nn.LayerNorm(WIDTH)
        self.mlp = MLP()

    def forward(self, x: Tensor) -> Tensor:
        """Map (N, tokens, WIDTH) to the same shape."""
        x = x + self.attn(self.ln_1(x))
        return x + self.mlp(self.ln_2(x))  # type: ignore[no-any-return]


class GPT2(nn.Module):
    """GPT-2 small (Radford et al., 2019); the output projection shares the token embedding's
    weight.
    """

    def __init__(self) -> None:
        super().__init__()
        self.wte = nn.Embedding(VOCABULARY, WIDTH)
        self.wpe = nn.Embedding(POSITIONS, WIDTH)
        self.h = nn.Sequential(*(Block() for _ in range(LAYERS)))
        self.ln_f = nn.LayerNorm(WIDTH)
        self.lm_head = nn.Linear(WIDTH, VOCABULARY, bias=False)
        self.lm_head.weight = self.wte.weight
        for parameter in self.parameters():
            if parameter.ndim == 2:
                nn.init.normal_(parameter, std=0.02)

    def forward(self, tokens: Tensor) -> Tensor:
        """Map token ids (N, tokens) to next-token scores (N, tokens, VOCABULARY)."""
        positions = torch.arange(tokens.shape[1], device=tokens.device)
        x = self.wte(tokens) + self.wpe(positions)
        return self.lm_head(self.ln_f(self.h(x)))  # type: ignore[no-any-return]


def target(
    batch: int = BATCH, dtype: torch.dtype = DTYPE, device: str = DEVICE, tokens: int = TOKENS
) -> tuple[nn.Module, tuple[Tensor]]:
    """The model, ready for inference, and its inputs: token ids of shape (batch, tokens)."""
    model = GPT2().eval().requires_grad_(False).to(device, dtype)
    return model, (torch.randint(VOCABULARY, (batch, tokens), device=device),)


def main() -> None:
    """Profile the model, print the profile and save it."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--batch", type=int, default=BATCH)
    parser.add_argument(
        "--tokens", type=int, default=TOKENS, help=f"length of the prompt, at most {POSITIONS}"
    )
    parser.add_argument(
        "--dtype", default=str(DTYPE).removeprefix("torch."), help="float16, bfloat16 or float32"
    )
    parser.add_argument("--device", default=DEVICE)
    parser.add_argument(
        "--budget-s", type=float, default=30.0, help="seconds for the rounds of runs"
    )
    parser.add_argument(
        "--output", type=Path, default=Path("transformer.xsp"), help="where to save the capture"
    )
    arguments = parser.parse_args()

    dtype = getattr(torch, arguments.dtype)
    model, inputs = target(arguments.batch, dtype, arguments.device, arguments.tokens)
    with xsp.profile(model, budget_s=arguments.budget_s) as prof:
        model(*inputs)
    print(prof)
    prof.save(arguments.output)


if __name__ == "__main__":
    main()
