"""Tables that are read as text."""

from __future__ import annotations

import pandas as pd


class Sentences(pd.DataFrame):
    """A table whose sentences are shown whole, where pandas cuts texts of more than 50 characters.
    What is made of it is a plain DataFrame.
    """

    @property
    def _constructor(self) -> type[pd.DataFrame]:
        return pd.DataFrame

    def __repr__(self) -> str:
        return str(self.to_string())

    def _repr_html_(self) -> str:
        with pd.option_context("display.max_colwidth", None):
            return str(self.to_html(notebook=True))
