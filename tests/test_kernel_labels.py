"""Short names of kernels, which have to stay different where the kernels are."""

from __future__ import annotations

from pathlib import Path

from hypothesis import given
from hypothesis import strategies as st

import xsp
from xsp.words.distinct import distinct_names
from xsp.words.labels import kernel_name, telling_kernel_name
from xsp.words.mangled import readable

MIXTRAL = Path(__file__).parent.parent / "examples" / "captures" / "models"


def test_symbols_that_the_cpp_library_refuses_are_read() -> None:
    """NVCC's symbols of grouped products are not for libstdc++; their short names are read from
    the symbol itself.
    """
    names = xsp.load(MIXTRAL / "mixtral_4_layers.xsp").table("kernels")["name"].unique()
    (mangled,) = [name for name in names if name.startswith("_Z")]
    assert kernel_name(mangled) == "device_kernel<…>"
    assert telling_kernel_name(mangled) == "device_kernel<GemmUniversal…>"
    assert not any(short.startswith("_Z") for short in distinct_names(names).values())


def test_what_is_no_symbol_stays_as_it_is() -> None:
    """Names that only look mangled, and all others, are left alone."""
    for name in ("memset", "_Z", "_ZN99a", "_Znonsense", "sm90_xmma_fprop", ""):
        assert readable(name) == name
    assert kernel_name("_Z3fooi") == "foo"


def test_instances_are_told_apart_by_what_differs() -> None:
    """Two instances of a template have the argument in their names that only one of them has."""
    names = ["void bn_fw<float, 512, true>(x)", "void bn_fw<float, 1024, true>(x)"]
    assert list(distinct_names(names).values()) == ["bn_fw<512…>", "bn_fw<1024…>"]


def test_long_names_keep_what_differs() -> None:
    """Names that a table would cut to the same text show the parts in which they differ."""
    long = "sm90_xmma_dgrad_implicit_gemm_f16f16_f32_nhwckrsc_tilesize{}_warpgroupsize1x1x1_cudnn"
    names = [long.format(size) for size in ("64x64x64", "128x64x64", "128x128x64")]
    short = distinct_names(names, width=46)
    assert len(set(short.values())) == 3
    assert all(len(each) <= 46 for each in short.values())
    assert all(size in short[long.format(size)] for size in ("64x64x64", "128x64x64"))


@given(st.lists(st.text(max_size=60), max_size=12), st.integers(8, 60))
def test_different_kernels_never_share_a_name(names: list[str], width: int) -> None:
    """Whatever the names are, and however short they have to be."""
    short = distinct_names(names, width)
    assert set(short) == set(names)
    assert len(set(short.values())) == len(set(names))


def test_bundled_captures_have_different_names_for_different_kernels(
    profiles: dict[str, xsp.Profile],
) -> None:
    """In the width of a table's column too."""
    for prof in profiles.values():
        names = set(prof.table("kernels")["name"])
        assert len(set(distinct_names(names, 46).values())) == len(names)
