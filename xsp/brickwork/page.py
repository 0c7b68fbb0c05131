"""Bricks as sections of an HTML report, and as a page of their own."""

from __future__ import annotations

import os
from html import escape
from pathlib import Path
from typing import TYPE_CHECKING

from xsp.brickwork import figures
from xsp.capture.writing import writable, write_file
from xsp.report.elements import figure_html, sheet_html, tiles_html
from xsp.report.page import Section, page_html
from xsp.report.sheet_data import Column, Sheet
from xsp.words.labels import printable

if TYPE_CHECKING:
    import pandas as pd

    from xsp.brickwork.bricks_data import BricksData


def _text(name: str, head: str) -> Column:
    return Column(name, head, kind="text")


_NORMALISED = "Constructed over measured latency; 1 is exact"
_MODELS = (
    _text("model", "model"),
    Column("granularity", "G", "Layers of a brick at most", "count"),
    _text("rule", "rule"),
    Column("layers", "layers", kind="count"),
    Column("bricks", "bricks", kind="count"),
    Column("unique", "unique", kind="count"),
    Column("measured_ms", "measured", "The model as its user calls it", "ms"),
    Column("graph_ms", "graph", "Its operators without Python between them", "ms"),
    Column("constructed_ms", "constructed", "From its bricks", "ms"),
    Column("constructed_ci_ms", "±", "Half of the 95 % interval", "ms"),
    Column("normalised", "normalised", _NORMALISED),
    Column("covered", "covered", "Share of the bricks that have a time", "percent"),
)
_POOLS = (
    Column("granularity", "G", "Layers of a brick at most", "count"),
    Column("models", "models", kind="count"),
    Column("bricks", "bricks", kind="count"),
    Column("unique", "unique", kind="count"),
    Column("unique_share", "unique share", kind="percent"),
    Column("speedup", "speed-up", "Latencies of the models over those of their unique bricks"),
    Column("normalised", "normalised", f"Geometric mean. {_NORMALISED}"),
    Column("lowest", "lowest"),
    Column("highest", "highest"),
)
_BRICKS = (
    _text("operators", "operators"),
    Column("layers", "layers", kind="count"),
    Column("occurrences", "occurrences", kind="count"),
    Column("models", "models", kind="count"),
    Column("time_us", "µs", "As inside a model"),
    Column("ci_us", "± µs", "Half of the 95 % interval"),
    Column("warm_us", "warm µs", "In a loop, everything in the caches"),
    Column("cold_us", "cold µs", "In a loop, nothing in the caches"),
    _text("failure", "failure"),
)


def sections(found: BricksData) -> list[Section]:
    """Models and pool with the paper's figures, then the bricks of the finest granularity."""
    finest = min(found.granularities)
    drawn = [
        ("bricks-normalised", figures.normalised(found.models)),
        ("bricks-speedup", figures.speedup(found.pools)),
        ("bricks-similarity", figures.similarity(found.similarity(finest), finest)),
    ]
    made = "".join(figure_html(*each) for each in drawn)
    tables = _table("bricks-models", "Models", _MODELS, found.models)
    tables += _table("bricks-pool", "All models together", _POOLS, found.pools)
    tables += _table(
        "bricks-each", f"Bricks at granularity {finest}", _BRICKS, found.bricks(finest)
    )
    notes = "".join(f"<p>{escape(printable(each))}</p>" for each in found.notes)
    return [("bricks", "Bricks", f'{notes}<div class="figures">{made}</div>{tables}')]


def write_page(found: BricksData, path: str | os.PathLike[str]) -> Path:
    """Write a page of its own; an existing file is replaced only once the new one is complete.

    Raises WriteError where it cannot be written.
    """
    name = ", ".join(each.model.name for each in found.subjects[:3]) or "no model"
    more = len(found.subjects) - 3
    title = f"Bricks of {name}" + (f" and {more} more" if more > 0 else "")
    tiles = [
        (f"unique of {row.bricks} bricks, G = {row.granularity}", str(row.unique))
        for row in found.pools.itertuples()
    ]
    return write_file(writable(path), page_html(title, tiles_html(tiles), sections(found)).encode())


def _table(key: str, caption: str, columns: tuple[Column, ...], frame: pd.DataFrame) -> str:
    return sheet_html(Sheet(key, caption, columns, lambda _: frame), frame)
