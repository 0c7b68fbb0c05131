"""Small models with random weights, each with inputs: convolutional, transformer, recurrent."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import nn


class Convolutional(nn.Module):
    """Strided, grouped and padded convolutions, a residual, pooling, resizing, a head."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 8, 3, stride=2, padding=1, bias=False)
        self.norm = nn.BatchNorm2d(8)
        self.act = nn.ReLU(inplace=True)
        self.pool = nn.MaxPool2d(3, 2, 1)
        self.depthwise = nn.Conv2d(8, 8, 3, groups=8, padding=1)
        self.last = nn.AdaptiveAvgPool2d(1)
        self.head = nn.Linear(8, 16)
        self.drop = nn.Dropout()

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = self.pool(self.act(self.norm(self.stem(x))))
        y = F.hardswish(F.silu(y + self.depthwise(y)))
        y = F.interpolate(torch.cat([y, y.sigmoid()], 1)[:, :8], scale_factor=2.0)
        output: torch.Tensor = self.drop(self.head(self.last(y).flatten(1))).softmax(-1)
        return output


class Transformer(nn.Module):
    """An encoder layer between embeddings and a head."""

    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Embedding(50, 32)
        self.places = nn.Parameter(torch.randn(1, 10, 32))
        self.encoder = nn.TransformerEncoderLayer(32, 4, 64, activation="gelu", batch_first=True)
        self.norm = nn.LayerNorm(32)
        self.head = nn.Linear(32, 50, bias=False)

    def forward(self, tokens: torch.Tensor) -> torch.Tensor:
        output: torch.Tensor = self.head(self.norm(self.encoder(self.embed(tokens) + self.places)))
        return output


class Recurrent(nn.Module):
    """A bidirectional LSTM, a GRU and a head."""

    def __init__(self) -> None:
        super().__init__()
        self.lstm = nn.LSTM(8, 16, batch_first=True, bidirectional=True)
        self.gru = nn.GRU(32, 16)
        self.head = nn.Linear(16, 3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        output: torch.Tensor = self.head(self.gru(self.lstm(x)[0])[0]).log_softmax(-1)
        return output


class HandWritten(nn.Module):
    """Attention, GELU and SiLU as people write them out."""

    def __init__(self) -> None:
        super().__init__()
        self.qkv = nn.Linear(32, 96)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        q, k, v = self.qkv(x).view(2, 10, 3, 4, 8).permute(2, 0, 3, 1, 4).unbind(0)
        y = ((q @ k.transpose(-1, -2)) / 8**0.5).softmax(-1) @ v
        y = y * torch.sigmoid(y)
        output: torch.Tensor = y * 0.5 * (1.0 + torch.erf(y / 1.4142135))
        return output


class Branching(nn.Module):
    """Chooses by a value, which torch.export cannot follow."""

    def __init__(self) -> None:
        super().__init__()
        self.one, self.other = nn.Linear(4, 4), nn.Linear(4, 8)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        output: torch.Tensor = self.one(x) if x.sum().item() > 0 else self.other(x)
        return output


def ready(kind: type[nn.Module]) -> tuple[nn.Module, tuple[torch.Tensor, ...]]:
    """The model, every weight random, in evaluation mode, and inputs that it takes."""
    model = kind().eval()
    for tensor in (*model.parameters(), *model.buffers()):
        if tensor.is_floating_point():
            nn.init.uniform_(tensor.data, 0.1, 1.0)
    inputs: dict[type[nn.Module], tuple[torch.Tensor, ...]] = {
        Convolutional: (torch.randn(2, 3, 32, 32),),
        Transformer: (torch.randint(0, 50, (2, 10)),),
        Recurrent: (torch.randn(2, 5, 8),),
        HandWritten: (torch.randn(2, 10, 32),),
        Branching: (torch.ones(2, 4),),
    }
    return model, inputs[kind]
