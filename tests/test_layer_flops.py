"""FLOPs of products against a count of their multiply-adds, and against torch's own counter."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from itertools import pairwise
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from captures import wide_profile
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st
from torch import nn
from torch.nn.utils.rnn import pack_sequence
from torch.utils.flop_counter import FlopCounterMode

import xsp
from xsp import analysis
from xsp.analysis.work.layer_work import layer_work
from xsp.analysis.work.products import Operands

F = nn.functional
Call = Callable[[], Any]

# One profile measures all calls of an example, so that few examples hold many.
SETTINGS = settings(
    max_examples=5,
    deadline=None,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large],
    phases=(Phase.explicit, Phase.reuse, Phase.generate),
)
OPERATORS: dict[str, tuple[Callable[..., torch.Tensor], tuple[str, ...]]] = {
    "mm": (torch.mm, ("input", "mat2")),
    "matmul": (torch.matmul, ("input", "other")),
    "bmm": (torch.bmm, ("input", "mat2")),
    "addmm": (torch.addmm, ("input", "mat1", "mat2")),
    "addbmm": (torch.addbmm, ("input", "batch1", "batch2")),
    "baddbmm": (torch.baddbmm, ("input", "batch1", "batch2")),
    "mv": (torch.mv, ("input", "vec")),
    "addmv": (torch.addmv, ("input", "mat", "vec")),
    "dot": (torch.dot, ("input", "tensor")),
    "inner": (torch.inner, ("input", "other")),
    "linear": (F.linear, ("input", "weight")),
}
ADDENDS = {"addmm", "addbmm", "baddbmm", "addmv"}
TYPES = (torch.float32, torch.float64, torch.bfloat16, torch.complex64)


def profile_of(*calls: Call) -> pd.DataFrame:
    """`layer_metrics` of calls that are made one after another."""

    def target() -> None:
        for call in calls:
            call()

    with torch.no_grad(), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        levels = [xsp.Level.MODEL, xsp.Level.LAYER]
        prof = xsp.measure(target, levels=levels, iterations=1, warmup=0, progress=False)
    return analysis.layer_metrics(prof)


def flops_of(type_: str, *calls: Call) -> list[float]:
    """FLOPs of the calls' layers of one type, in order."""
    table = profile_of(*calls)
    return [float(each) for each in table.loc[table["type"] == type_, "flops"]]


def terms(operator: Callable[..., torch.Tensor], *operands: torch.Tensor) -> float:
    """How many products the operator adds up: its value on ones, summed."""
    ones = [torch.ones(operand.shape, dtype=torch.float64) for operand in operands]
    return float(operator(*ones).sum())


# ---- products of two operands ----


@st.composite
def shapes(draw: st.DrawFn, name: str) -> list[list[int]]:
    """Shapes that the operator takes, in the signature's order; batches of `matmul` broadcast."""
    size = st.integers(1, 5)
    m, k, n, batch = (draw(size) for _ in range(4))
    pairs = {
        "bmm": [[batch, m, k], [batch, k, n]],
        "addbmm": [[m, n], [batch, m, k], [batch, k, n]],
        "baddbmm": [[batch, m, n], [batch, m, k], [batch, k, n]],
        "addmm": [[m, n], [m, k], [k, n]],
        "mv": [[m, k], [k]],
        "addmv": [[m], [m, k], [k]],
        "dot": [[k], [k]],
        "inner": [[batch, m, k], [n, k]],
        "linear": [[batch, m, k], [n, k]],
        "mm": [[m, k], [k, n]],
    }
    if name != "matmul":
        return pairs[name]
    left = draw(st.sampled_from([[k], [m, k], [batch, m, k], [1, m, k], [2, 1, m, k]]))
    right = draw(st.sampled_from([[k], [k, n], [batch, k, n], [1, k, n], [2, 1, k, n]]))
    return [left, right]


class Product:
    """A drawn call: which operator, on what, and how its arguments are passed."""

    def __init__(self, draw: st.DrawFn) -> None:
        self.name = draw(st.sampled_from(sorted(OPERATORS)))
        self.function, self.names = OPERATORS[self.name]
        dtype = draw(st.sampled_from(TYPES))
        self.real = 4 if dtype.is_complex else 1
        transposed = draw(st.booleans())
        drawn = draw(shapes(self.name))
        self.operands = [_operand(shape, dtype, transposed=transposed) for shape in drawn]
        positional = draw(st.integers(0, len(drawn)))
        by_name = list(zip(self.names, self.operands, strict=True))[positional:]
        self.arguments = self.operands[:positional]
        self.keywords: dict[str, Any] = dict(draw(st.permutations(by_name)))
        if draw(st.booleans()) and self.name != "linear":
            first = draw(st.booleans())
            out = {"out": torch.empty_like(self.function(*self.operands))}
            self.keywords = out | self.keywords if first else self.keywords | out

    def __call__(self) -> torch.Tensor:
        return self.function(*self.arguments, **self.keywords)

    @property
    def expected(self) -> float:
        """2 for each multiply-add, of a complex one 8."""
        operands = self.operands
        if self.name in ADDENDS:
            counted = terms(lambda *given: self.function(given[0] * 0, *given[1:]), *operands)
        else:
            counted = terms(self.function, *operands)
        return 2 * self.real * counted

    def __repr__(self) -> str:
        sizes = [list(operand.shape) for operand in self.operands]
        return f"{self.name}{sizes} {len(self.arguments)} by place, then {list(self.keywords)}"


def _operand(shape: list[int], dtype: torch.dtype, *, transposed: bool) -> torch.Tensor:
    if not transposed or len(shape) < 2:
        return torch.ones(shape, dtype=dtype)
    return torch.ones([*shape[:-2], shape[-1], shape[-2]], dtype=dtype).transpose(-1, -2)


@SETTINGS
@given(st.lists(st.composite(Product)(), min_size=20, max_size=40))
def test_products_are_counted_by_role(products: list[Product]) -> None:
    """Whatever the operator, layout, type, `out=`, broadcasting and order of keywords, FLOPs are
    those of a count of multiply-adds.
    """
    table = profile_of(*products)
    found = table.loc[table["type"].isin(OPERATORS), "flops"].tolist()
    assert found == [each.expected for each in products]


# ---- contractions ----


@st.composite
def equations(draw: st.DrawFn) -> tuple[str, list[list[int]]]:
    """An einsum of two operands: indices of either, both, summed or kept, some repeated."""
    sizes = {name: draw(st.integers(1, 4)) for name in "abcd"}
    index = st.sampled_from("abcd")
    left, right = ("".join(draw(st.lists(index, min_size=1, max_size=3))) for _ in range(2))
    every = sorted(set(left + right))
    kept = "".join(draw(st.permutations(draw(st.lists(st.sampled_from(every), unique=True)))))
    arrow = draw(st.sampled_from([f"->{kept}", f" -> {kept}", ""]))
    shapes = [[sizes[name] for name in term] for term in (left, right)]
    return f"{left},{right}{arrow}", shapes


def multiply_adds(equation: str, shapes: list[list[int]]) -> float:
    """FLOPs by nested loops over the indices: those that one operand alone has, and the result has
    not, are added up beforehand.
    """
    terms_, arrow, output = equation.replace(" ", "").partition("->")
    left, right = terms_.split(",")
    if not arrow:
        output = "".join(name for name in left + right if (left + right).count(name) == 1)
    sizes = dict(zip(left + right, [*shapes[0], *shapes[1]], strict=True))
    before = (set(left) ^ set(right)) - set(output)
    looped = [name for name in sizes if name not in before]
    combinations = sum(1 for _ in np.ndindex(*[sizes[name] for name in looped]))
    return combinations * (2 if set(looped) - set(output) else 1)


@SETTINGS
@given(st.lists(equations(), min_size=20, max_size=30))
def test_einsum_counts_the_combinations_of_its_indices(
    drawn: list[tuple[str, list[list[int]]]],
) -> None:
    """FLOPs of a contraction are 2 for each combination of indices, 1 where nothing is summed."""
    calls = []
    for equation, sizes in drawn:
        operands = [torch.ones(size) for size in sizes]
        calls.append(lambda e=equation, o=operands: torch.einsum(e, *o))
    assert flops_of("einsum", *calls) == [multiply_adds(*each) for each in drawn]


def test_contractions_by_hand() -> None:
    """Ellipses, lists of operands, tensordot, chains, and what is not known: an order that nothing
    tells.
    """
    a, b, c = torch.ones(2, 3, 4), torch.ones(4, 5), torch.ones(5, 6)
    x = torch.ones(7, 1, 4, 5)
    found = profile_of(
        lambda: torch.einsum("...ij,jk->...ik", a, b),
        lambda: torch.einsum("...ij,...jk->...ik", a, x),
        lambda: torch.einsum("ij,jk", [b, c]),
        lambda: torch.einsum(b, [0, 1], c, [1, 2]),
        lambda: torch.tensordot(a, b, dims=1),
        lambda: torch.tensordot(b, a, dims=([0], [2])),
        lambda: torch.tensordot(b, c, 0),
        lambda: torch.linalg.multi_dot([a[0], b, c]),
        lambda: torch.linalg.multi_dot([a[0, 0], b, c[:, 0]]),
        lambda: torch.einsum("aij,jk,kl->ail", a, b, c),
    )
    products = found[found["type"].isin(["einsum", "tensordot", "linalg_multi_dot"])]
    *known, unknown = products["flops"]
    assert known == [
        2 * 2 * 3 * 4 * 5,
        2 * 7 * 2 * 3 * 4 * 5,
        2 * 4 * 5 * 6,
        2 * 4 * 5 * 6,
        2 * 2 * 3 * 4 * 5,
        2 * 2 * 3 * 4 * 5,
        4 * 5 * 5 * 6,
        2 * (3 * 4 * 5 + 3 * 5 * 6),
        2 * (4 * 5 + 4),  # the matrix and the second vector first
    ]
    assert np.isnan(unknown)


@SETTINGS
@given(st.lists(st.lists(st.integers(1, 6), min_size=3, max_size=6), min_size=5, max_size=10))
def test_chains_are_multiplied_in_the_order_that_torch_takes(chains: list[list[int]]) -> None:
    """The cheapest order, as torch's counter sees it."""
    calls = []
    for sizes in chains:
        matrices = [torch.ones(one, next_) for one, next_ in pairwise(sizes)]
        calls.append(lambda given=matrices: torch.linalg.multi_dot(given))
    assert flops_of("linalg_multi_dot", *calls) == [counted(call) for call in calls]


# ---- sparse ----


@pytest.mark.filterwarnings("ignore:Sparse")
@pytest.mark.parametrize("layout", [torch.sparse_coo, torch.sparse_csr, torch.sparse_csc])
def test_sparse_products_count_what_is_stored(layout: torch.layout) -> None:
    """A sparse matrix multiplies with the elements that it stores, whatever its shape."""
    dense = torch.zeros(8, 4)
    dense[0, 0] = dense[2, 3] = dense[7, 1] = 1
    sparse, other = dense.to_sparse(layout=layout), torch.ones(4, 5)
    expected = 2 * terms(lambda right: dense.double() @ right, other)
    out = torch.empty(8, 5)
    table = profile_of(
        lambda: sparse @ other,
        lambda: torch.mv(sparse, other[:, 0]),
        lambda: torch.mm(mat2=other, input=sparse, out=out),
    )
    found = table[table["type"].isin(["matmul", "mv", "mm"])]
    assert found["flops"].tolist() == [expected, 6, expected] == [30, 6, 30]


def test_the_product_of_two_sparse_matrices_is_not_known() -> None:
    """It depends on where the elements are, which is not recorded."""
    sparse = torch.eye(4).to_sparse()
    assert np.isnan(flops_of("sparse_mm", lambda: torch.sparse.mm(sparse, sparse))).all()


# ---- attention, recurrence, modules ----


def counted(call: Call) -> int:
    """FLOPs by torch's counter."""
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        call()
    return int(counter.get_total_flops())


@st.composite
def attentions(draw: st.DrawFn) -> tuple[dict[str, torch.Tensor], float]:
    """Operands by name in any order, with batches and heads that broadcast, and their FLOPs."""
    size = st.integers(1, 4)
    batch, heads, long, short, width, wide = (draw(size) for _ in range(6))
    lead = [draw(st.sampled_from([[batch, heads], [1, heads], [batch, 1]])) for _ in range(3)]
    shapes_ = [[*lead[0], long, width], [*lead[1], short, width], [*lead[2], short, wide]]
    names = ["query", "key", "value"]
    operands = [(name, torch.ones(shape)) for name, shape in zip(names, shapes_, strict=True)]
    rows = np.broadcast_shapes(*(tuple(each) for each in lead))
    flops = 2.0 * float(np.prod(rows)) * long * short * (width + wide)
    return dict(draw(st.permutations(operands))), flops


@SETTINGS
@given(st.lists(attentions(), min_size=8, max_size=16))
def test_attention_counts_every_batch_and_head(
    drawn: list[tuple[dict[str, torch.Tensor], float]],
) -> None:
    """Batches and heads may broadcast, in any of the operands, and keywords come in any order."""
    calls = [lambda given=given: F.scaled_dot_product_attention(**given) for given, _ in drawn]
    assert flops_of("scaled_dot_product_attention", *calls) == [flops for _, flops in drawn]


@pytest.mark.parametrize(
    "options", [{}, {"kdim": 6, "vdim": 10}, {"add_bias_kv": True, "add_zero_attn": True}]
)
def test_multi_head_attention_counts_what_torch_counts(options: dict[str, Any]) -> None:
    """Projections, attention and the projection of the output, with and without a batch."""
    module = nn.MultiheadAttention(8, 2, **options).train()
    key, value = options.get("kdim", 8), options.get("vdim", 8)
    batched = torch.ones(3, 2, 8), torch.ones(5, 2, key), torch.ones(5, 2, value)
    alone = tuple(each[:, 0] for each in batched)
    calls: list[Call] = [lambda: module(*batched), lambda: module(*alone)]
    [found] = flops_of("multi_head_attention_forward", *calls)
    # Calls of one module are one layer.
    assert found == sum(counted(call) for call in calls) > 0


def weights(module: nn.Module) -> int:
    """How many weights a module has, biases left out."""
    named = module.named_parameters()
    return sum(each.numel() for name, each in named if name.startswith("weight"))


def test_recurrent_networks_use_every_weight_at_each_step_of_each_sequence() -> None:
    """So does a packed batch, which has as many steps as its sequences have together."""
    x, packed = torch.ones(3, 4, 5), pack_sequence([torch.ones(long, 5) for long in (4, 2, 1)])
    options: dict[str, Any] = {"num_layers": 2, "bidirectional": True, "batch_first": True}
    kinds: list[Callable[..., nn.RNNBase]] = [nn.LSTM, nn.GRU, nn.RNN]
    modules = [kind(5, 7, **options) for kind in kinds] + [nn.LSTM(5, 7, proj_size=3, **options)]
    calls = [lambda m=module, g=given: m(g) for module in modules for given in (x, packed)]
    table = profile_of(*calls)
    # Calls of one module are one layer.
    found = table.loc[table["type"].isin(["LSTM", "GRU", "RNN"]), "flops"]
    expected = [2 * (3 * 4 + 4 + 2 + 1) * weights(module) for module in modules]
    assert found.tolist() == expected


def test_integer_products_have_operations() -> None:
    """`torch._int_mm` multiplies integers: its operations count as others' do."""
    a, b = torch.ones(17, 8, dtype=torch.int8), torch.ones(8, 16, dtype=torch.int8)
    assert flops_of("int_mm", lambda: torch._int_mm(a, b)) == [2 * 17 * 8 * 16]


def test_parts_of_a_nested_tensor_are_counted_apart() -> None:
    """Each tensor of a nested one is multiplied on its own."""
    nested = torch.nested.nested_tensor([torch.ones(2, 4), torch.ones(3, 4)])
    weight = torch.ones(5, 4)
    assert flops_of("linear", lambda: F.linear(nested, weight)) == [2 * (2 + 3) * 4 * 5]


# ---- what is not known ----


class Linear(nn.Module):
    """Has the name of PyTorch's layer and does something else."""

    def forward(self, x: torch.Tensor, scale: torch.Tensor) -> torch.Tensor:
        """An outer product."""
        return x[:, None] * scale


def test_products_without_a_rule_are_unknown_and_not_zero() -> None:
    """Operators that multiply matrices inside and have no rule have no FLOPs; neither has a class
    of a familiar name with other tensors.
    """
    a = torch.ones(4, 4)
    bilinear = nn.Bilinear(4, 4, 3)
    other = Linear()
    table = profile_of(
        lambda: torch.matrix_power(a, 3),
        lambda: torch.cdist(a, a),
        lambda: torch.linalg.solve(a + torch.eye(4), a),
        lambda: torch.cov(a),
        lambda: bilinear(a, a),
        lambda: F.bilinear(a, a, torch.ones(3, 4, 4)),
    )
    mine = ["matrix_power", "cdist", "linalg_solve", "cov", "Bilinear", "bilinear"]
    found = table[table["type"].isin(mine)]
    assert len(found) == len(mine)
    assert found["flops"].isna().all()
    assert np.isnan(flops_of("Linear", lambda: other(a[0], a[1]))).all()


def test_what_is_written_to_is_not_read() -> None:
    """`out=` is no operand: its bytes are written, and not read as well."""
    a, b, out = torch.ones(3, 4), torch.ones(4, 5), torch.empty(3, 5)
    with_out, without = (
        profile_of(call).set_index("type").loc["mm"]
        for call in (lambda: torch.mm(a, b, out=out), lambda: torch.mm(a, b))
    )
    assert with_out["dram_read_bytes"] == without["dram_read_bytes"] == 4 * (12 + 20)
    assert with_out["dram_write_bytes"] == 4 * 15


def test_equal_calls_are_worked_out_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """The work of 1,000 equal layers is that of one, each time, read from its text once."""
    read: list[str] = []
    of_row = Operands.of_row

    def counted(kind: str, row: Any) -> Operands:
        read.append(kind)
        return of_row(kind, row)

    monkeypatch.setattr(Operands, "of_row", counted)
    layers = wide_profile(1_000).table("layers")
    alone = layer_work(layers.iloc[:1].reset_index(drop=True))
    assert layer_work(layers).equals(pd.concat([alone] * len(layers), ignore_index=True))
    assert len(read) == 2
