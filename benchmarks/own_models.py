"""Models that no library of the zoo brings: a diffusion U-Net, a recommender with embedding tables,
an LSTM.
"""

from __future__ import annotations

import itertools
import math

import torch
from torch import Tensor, nn
from torch.nn import functional

TEXT_WIDTH = 768
"""Width of the text embedding that the U-Net attends to."""


class ResidualBlock(nn.Module):
    """Two convolutions around a shortcut; the time step's embedding is added between them."""

    def __init__(self, channels: int, width: int, time_width: int) -> None:
        super().__init__()
        self.norm1, self.norm2 = nn.GroupNorm(32, channels), nn.GroupNorm(32, width)
        self.conv1 = nn.Conv2d(channels, width, 3, padding=1)
        self.conv2 = nn.Conv2d(width, width, 3, padding=1)
        self.time = nn.Linear(time_width, width)
        self.shortcut = nn.Conv2d(channels, width, 1) if channels != width else nn.Identity()
        self.act = nn.SiLU()

    def forward(self, x: Tensor, time: Tensor) -> Tensor:
        """Map (N, channels, H, W) to (N, width, H, W)."""
        out = self.conv1(self.act(self.norm1(x))) + self.time(self.act(time))[:, :, None, None]
        output: Tensor = self.shortcut(x) + self.conv2(self.act(self.norm2(out)))
        return output


class Attention(nn.Module):
    """Multi-head attention of `x` to `context`, or to itself."""

    def __init__(self, width: int, context_width: int, heads: int = 8) -> None:
        super().__init__()
        self.heads = heads
        self.query = nn.Linear(width, width, bias=False)
        self.key_value = nn.Linear(context_width, 2 * width, bias=False)
        self.out = nn.Linear(width, width)

    def forward(self, x: Tensor, context: Tensor) -> Tensor:
        """Map (N, tokens, width) to the same shape."""
        query, key, value = (
            part.unflatten(-1, (self.heads, -1)).transpose(1, 2)
            for part in (self.query(x), *self.key_value(context).chunk(2, dim=-1))
        )
        output: Tensor = self.out(
            functional.scaled_dot_product_attention(query, key, value).transpose(1, 2).flatten(2)
        )
        return output


class SpatialTransformer(nn.Module):
    """Self-attention over pixels, attention to the text, and a gated MLP."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.norm, self.project = nn.GroupNorm(32, width), nn.Linear(width, width)
        self.norm1, self.self_attention = nn.LayerNorm(width), Attention(width, width)
        self.norm2, self.text_attention = nn.LayerNorm(width), Attention(width, TEXT_WIDTH)
        self.norm3, self.gate, self.down = (
            nn.LayerNorm(width),
            nn.Linear(width, 8 * width),
            nn.Linear(4 * width, width),
        )

    def forward(self, x: Tensor, text: Tensor) -> Tensor:
        """Map (N, width, H, W) to the same shape."""
        tokens = self.project(self.norm(x).flatten(2).transpose(1, 2))
        normed = self.norm1(tokens)
        tokens = tokens + self.self_attention(normed, normed)
        tokens = tokens + self.text_attention(self.norm2(tokens), text)
        value, gate = self.gate(self.norm3(tokens)).chunk(2, dim=-1)
        tokens = tokens + self.down(value * functional.gelu(gate))
        output: Tensor = x + tokens.transpose(1, 2).reshape(x.shape)
        return output


class UNet(nn.Module):
    """A latent diffusion U-Net (Rombach et al., 2022): residual blocks that attend to a text, skips
    between halves.
    """

    def __init__(
        self, channels: int = 4, width: int = 192, factors: tuple[int, ...] = (1, 2, 4, 4)
    ) -> None:
        super().__init__()
        self.width, time_width = width, 4 * width
        widths = [width * factor for factor in factors]
        self.time = nn.Sequential(
            nn.Linear(width, time_width), nn.SiLU(), nn.Linear(time_width, time_width)
        )
        self.begin = nn.Conv2d(channels, width, 3, padding=1)
        self.down, self.up = nn.ModuleList(), nn.ModuleList()
        skips, above = [width], width
        for stage, here in enumerate(widths):
            attends = stage < len(widths) - 1
            for _ in range(2):
                self.down.append(self._block(above, here, time_width, attends))
                skips.append(above := here)
            if attends:
                self.down.append(nn.Conv2d(here, here, 3, stride=2, padding=1))
                skips.append(here)
        self.middle = self._block(above, above, time_width, attends=True)
        for stage, here in reversed(list(enumerate(widths))):
            for _ in range(3):
                self.up.append(
                    self._block(above + skips.pop(), here, time_width, stage < len(widths) - 1)
                )
                above = here
            if stage:
                self.up.append(
                    nn.Sequential(
                        nn.Upsample(scale_factor=2.0), nn.Conv2d(here, here, 3, padding=1)
                    )
                )
        self.end = nn.Sequential(
            nn.GroupNorm(32, above), nn.SiLU(), nn.Conv2d(above, channels, 3, padding=1)
        )

    @staticmethod
    def _block(channels: int, width: int, time_width: int, attends: bool) -> nn.ModuleList:
        block = nn.ModuleList([ResidualBlock(channels, width, time_width)])
        return block.append(SpatialTransformer(width)) if attends else block

    def forward(self, latent: Tensor, step: Tensor, text: Tensor) -> Tensor:
        """Noise in the latent (N, 4, H, W) at diffusion steps (N,), given text embeddings (N,
        tokens, TEXT_WIDTH).
        """
        half = self.width // 2
        rates = torch.exp(-math.log(10_000) / half * torch.arange(half, device=step.device))
        angles = step[:, None] * rates
        time = self.time(torch.cat([angles.cos(), angles.sin()], dim=-1).to(latent.dtype))
        x = self.begin(latent)
        skips = [x]
        for part in self.down:
            x = self._run(part, x, time, text)
            skips.append(x)
        x = self._run(self.middle, x, time, text)
        for part in self.up:
            is_block = isinstance(part, nn.ModuleList)
            x = self._run(part, torch.cat([x, skips.pop()], dim=1) if is_block else x, time, text)
        output: Tensor = self.end(x)
        return output

    @staticmethod
    def _run(part: nn.Module, x: Tensor, time: Tensor, text: Tensor) -> Tensor:
        if not isinstance(part, nn.ModuleList):
            output: Tensor = part(x)
            return output
        x = part[0](x, time)
        return part[1](x, text) if len(part) > 1 else x


class Recommender(nn.Module):
    """DLRM (Naumov et al., 2019): embedding bags and a bottom MLP, their dot products, a
    top MLP.
    """

    def __init__(
        self, tables: int = 26, rows: int = 200_000, width: int = 64, dense: int = 13
    ) -> None:
        super().__init__()
        self.tables = nn.ModuleList(nn.EmbeddingBag(rows, width, mode="sum") for _ in range(tables))
        self.bottom = _mlp(dense, 512, 256, width)
        pairs = (tables + 1) * tables // 2
        self.top = _mlp(width + pairs, 1024, 1024, 512, 256, 1)
        self.register_buffer("pairs", torch.tril_indices(tables + 1, tables + 1, offset=-1))

    pairs: Tensor

    def forward(self, dense: Tensor, sparse: Tensor) -> Tensor:
        """Scores (N, 1) from numbers (N, dense) and lists of ids (tables, N, ids in a list)."""
        bottom = self.bottom(dense)
        features = torch.stack(
            [bottom, *(table(ids) for table, ids in zip(self.tables, sparse, strict=True))], dim=1
        )
        products = torch.bmm(features, features.transpose(1, 2))[:, self.pairs[0], self.pairs[1]]
        output: Tensor = self.top(torch.cat([bottom, products], dim=1)).sigmoid()
        return output


def _mlp(*widths: int) -> nn.Sequential:
    layers: list[nn.Module] = []
    for before, after in itertools.pairwise(widths):
        layers += [nn.Linear(before, after), nn.ReLU()]
    return nn.Sequential(*layers[:-1])


class LSTMLanguageModel(nn.Module):
    """Embedding, stacked LSTM, projection to the vocabulary."""

    def __init__(self, vocabulary: int = 10_000, width: int = 1024, layers: int = 2) -> None:
        super().__init__()
        self.embedding = nn.Embedding(vocabulary, width)
        self.lstm = nn.LSTM(width, width, layers, batch_first=True)
        self.head = nn.Linear(width, vocabulary)

    def forward(self, tokens: Tensor) -> Tensor:
        """Map token ids (N, tokens) to next-token scores (N, tokens, vocabulary)."""
        output: Tensor = self.head(self.lstm(self.embedding(tokens))[0])
        return output
