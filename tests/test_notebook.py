"""A notebook as people use it: a real kernel, its magics, an interrupt, and the exported page in a
real browser.
"""

from __future__ import annotations

import ast
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import nbclient
import nbformat
import pytest
from browser import CHROMIUM, Tab, chromium
from jupyter_client.manager import KernelManager, start_new_kernel
from nbconvert import HTMLExporter

import xsp

EXAMPLES = Path(__file__).parent.parent / "examples"
in_browser = pytest.mark.skipif(CHROMIUM is None, reason="needs Chromium or Chrome on PATH")

SET_UP = f"""
import sys
sys.path.insert(0, {str(Path(__file__).parent)!r})
import conftest
import time, torch, xsp
from torch import nn

class Slow(nn.Module):
    def __init__(self):
        super().__init__()
        self.norm, self.linear = nn.BatchNorm1d(4), nn.Linear(4, 4)

    def forward(self, x):
        time.sleep(0.01)
        print("called", flush=True)
        return self.linear(self.norm(x))

def state(model):
    hooks = [len(table) for m in model.modules() for kind, table in vars(m).items() if "_hooks" in kind and table]
    values = {{name: value.tolist() for name, value in model.state_dict().items()}}
    return hooks, [m.training for m in model.modules()], values

def stop(runs):
    print("round", flush=True)
    time.sleep(0.1)
    return "enough rounds" if len(runs) > 200 else None

model, x = nn.Sequential(nn.Linear(4, 8), nn.ReLU()).eval(), torch.randn(2, 4)
%load_ext xsp
"""


@dataclass
class Answer:
    """How a cell ended, and what it gave out: to its streams, as its value, and shown in turn."""

    status: str
    error: str
    text: str
    value: str | None
    shown: list[str]


@dataclass
class Kernel:
    """A running kernel."""

    manager: KernelManager
    client: Any

    def run(self, code: str, on_text: Callable[[str], None] = lambda _text: None) -> Answer:
        """Execute a cell."""
        texts: list[str] = []
        values: list[str] = []
        shown: list[str] = []

        def keep(message: dict[str, Any]) -> None:
            content = message["content"]
            if message["msg_type"] == "stream":
                texts.append(content["text"])
                on_text(content["text"])
            elif message["msg_type"] in {"display_data", "update_display_data"}:
                shown.append(content["data"].get("text/plain", ""))
            elif message["msg_type"] == "execute_result":
                values.append(content["data"]["text/plain"])

        reply = self.client.execute_interactive(code, output_hook=keep, timeout=240)["content"]
        error = f"{reply.get('ename', '')}: {reply.get('evalue', '')}"
        return Answer(reply["status"], error, "".join(texts), values[0] if values else None, shown)

    def value(self, expression: str) -> Any:
        """Value of an expression of literals."""
        answer = self.run(expression)
        assert answer.status == "ok", answer
        return ast.literal_eval(answer.value or "None")

    def interrupted(self, code: str, word: str) -> Answer:
        """Execute a cell and interrupt it once, as the stop button does, when it has printed
        `word`.
        """
        pending = [word]

        def interrupt(text: str) -> None:
            if pending and word in text:
                pending.clear()
                self.manager.interrupt_kernel()

        return self.run(code, interrupt)


@pytest.fixture(scope="module")
def kernel() -> Iterator[Kernel]:
    """A kernel with a model, its input and the magics."""
    manager, client = start_new_kernel(kernel_name="python3")
    try:
        kernel = Kernel(manager, client)
        answer = kernel.run(SET_UP)
        assert answer.status == "ok", answer
        yield kernel
    finally:
        client.stop_channels()
        manager.shutdown_kernel(now=True)


def test_cell_magic_profiles_the_calls_of_the_cell(kernel: Kernel) -> None:
    """The cell runs once with its names the notebook's; the profile is its value, and has the name
    given by -o.
    """
    cell = "%%xsp --levels M/L --iterations=2 -o kept model\ntimes = [model(x) for _ in range(2)]"
    answer = kernel.run(cell)
    assert "Linear" in (answer.value or "")
    assert kernel.value(
        "kept.runs['round'].nunique(), len(times), kept.table('calls').shape[0]"
    ) == (2, 2, 2)
    assert kernel.value("list(kept.levels['status'])") == [
        "traced",
        "traced",
        "off",
        "off",
        "off",
    ]


def test_line_magic_measures_a_call(kernel: Kernel) -> None:
    """A call of a model is measured as the model with its arguments; assigned, the profile is the
    value.
    """
    kernel.run("held = %xsp -o same --iterations 2 --levels M model({'a b': x}['a b'])")
    assert kernel.value("held is same, held.name, len(held.runs)") == (True, "Sequential", 2)


def test_line_magic_evaluates_other_expressions_each_time(kernel: Kernel) -> None:
    """A forward and its backward can be measured again and again; the expression is the profile's
    name.
    """
    answer = kernel.run("%xsp --iterations 2 --levels M/L model(x).sum().backward()")
    assert answer.status == "ok", answer
    assert (answer.value or "").splitlines()[0] == "model(x).sum().backward()"


def test_line_magic_sees_local_variables(kernel: Kernel) -> None:
    """Inside a function the magic uses the function's variables."""
    kernel.run(
        "def inside():\n    local = x[:1]\n    found = %xsp --iterations 1 model(local)\n    "
        "return found"
    )
    assert kernel.value("inside().table('calls')['batch_size'].tolist()") == [1]


@pytest.mark.parametrize(
    ("cell", "message"),
    [
        ("%xsp", "nothing to profile was given; usage: %xsp [options] CALL"),
        ("%xsp --iterations few model(x)", "iterations must be a number, not 'few'"),
        ("%xsp --iterations 0 model(x)", "iterations must be a whole number >= 1, not 0"),
        ("%xsp --budget-s -5 model(x)", "budget_s must be a number of seconds >= 0, not -5.0"),
        ("%xsp model", "'model' calls nothing; give a call, such as model(x)"),
        ("%xsp --levels Q model(x)", "no level is called 'Q'"),
        ("%xsp -o a.b model(x)", "-o must be the name of a variable, not 'a.b'"),
        ("%xsp --rounds 3 model(x)", "there is no option --rounds"),
        ("%xsp model(x) --levels M", "options come before the code"),
        ("%xsp (3)(x)", "cannot profile 3 of type int"),
        ("%%xsp x\nmodel(x)", "needs a torch.nn.Module"),
        ("%%xsp model\npass", "was never called"),
    ],
)
def test_what_cannot_be_is_one_sentence(kernel: Kernel, cell: str, message: str) -> None:
    """Wrong options and targets are a short message without a traceback, and stop the notebook."""
    answer = kernel.run(cell)
    assert answer.status == "error"
    assert message in answer.error
    assert "Traceback" not in answer.text


def test_errors_of_the_cell_are_the_users(kernel: Kernel) -> None:
    """What the cell raises passes through."""
    assert "ZeroDivisionError" in kernel.run("%%xsp model\nmodel(x)\n1 / 0").error


def test_progress_is_shown_and_removed(kernel: Kernel) -> None:
    """While the ladder is climbed a bar counts the rounds; nothing warns about the way it
    is drawn.
    """
    answer = kernel.run(
        "quiet = lambda runs: time.sleep(0.4) or ('enough' if len(runs) > 6 else None)\n"
        "with xsp.profile(model, stop=quiet, levels='M/L') as prof:\n    model(x)"
    )
    assert "xsp Sequential: rounds of 2 rungs:" in "".join(answer.shown)
    assert "rounds/s" in "".join(answer.shown)
    assert answer.shown[-1] == ""
    assert "Warning" not in answer.text


def test_progress_is_no_line_of_an_exported_notebook() -> None:
    """However often a bar changes, the cell has one output of it, which is empty at the end."""
    cells = [
        "import sys\nfrom xsp.measuring import progress\nprogress.SHOW_AFTER_S = 0",
        "with progress.bar('climbing', 50, None) as bar:\n"
        "    bar.mininterval = 0\n"
        "    for _ in range(50):\n"
        "        bar.update()\n"
        "        bar.refresh()\n"
        "print('climbed', bar.n)",
    ]
    notebook = nbformat.v4.new_notebook(cells=list(map(nbformat.v4.new_code_cell, cells)))
    done = nbclient.NotebookClient(notebook, timeout=240).execute()
    kinds = [output["output_type"] for output in done.cells[1].outputs]
    assert kinds == ["display_data", "stream"]
    page, _ = HTMLExporter().from_notebook_node(done)
    assert "climbed 50" in page
    assert "climbing:" not in page


def test_interrupt_in_the_climb_keeps_the_finished_rounds(kernel: Kernel) -> None:
    """The stop button ends the climb: the profile has the finished rounds and says so, model and
    tracers are clean, and the notebook goes on.
    """
    kernel.run("slow = Slow(); before = state(slow); after_block = False")
    answer = kernel.interrupted(
        "with xsp.profile(slow, stop=stop) as prof:\n    y = slow(x); trained = "
        "state(slow)\nafter_block = True",
        "round",
    )
    assert answer.status == "ok", answer
    rounds, rungs, runs = kernel.value(
        "prof.runs['round'].nunique(), prof.runs['rung'].nunique(), len(prof.runs)"
    )
    assert rounds >= 1
    assert runs == rounds * rungs
    assert kernel.value(
        f"[w for w in prof.warnings if 'interrupted after round {rounds}' in w] != []"
    )
    assert kernel.value(
        "state(slow)[1:] == trained[1:], state(slow)[0] == before[0], after_block"
    ) == (
        True,
        True,
        True,
    )
    assert kernel.value("conftest._instrumentation() == conftest._PRISTINE")
    assert kernel.value("len(xsp.measure(slow, x, iterations=1, warmup=1, levels='M/L').runs)") == 2


def test_interrupt_before_the_first_round_is_an_interrupt(kernel: Kernel) -> None:
    """Stopped during warm-up there is nothing to keep: the cell ends as interrupted, model and
    tracers are clean.
    """
    kernel.run("slow = Slow(); before = state(slow)")
    answer = kernel.interrupted("prof = None\nprof = xsp.measure(slow, x, warmup=10000)", "called")
    assert answer.error.startswith("KeyboardInterrupt")
    assert kernel.value("prof is None, state(slow) == before") == (True, True)
    assert kernel.value("conftest._instrumentation() == conftest._PRISTINE")


@pytest.fixture(scope="module")
def executed() -> Any:
    """examples/notebook.ipynb with its outputs."""
    notebook = nbformat.read(EXAMPLES / "notebook.ipynb", as_version=4)
    resources = {"metadata": {"path": str(EXAMPLES)}}
    nbclient.NotebookClient(
        notebook, timeout=240, kernel_name="python3", resources=resources
    ).execute()
    return notebook


@pytest.fixture(scope="module")
def tab(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Tab]:
    """One browser for all tests of this file."""
    with chromium(tmp_path_factory.mktemp("chromium")) as tab:
        yield tab


@pytest.fixture(scope="module", params=["light", "dark"])
def page(
    request: pytest.FixtureRequest,
    executed: Any,
    tab: Tab,
    tmp_path_factory: pytest.TempPathFactory,
) -> Tab:
    """The notebook exported with a theme, opened by somebody whose system prefers the other one."""
    # Only what the notebook itself has is of interest, not the libraries that nbconvert's page
    # loads.
    exporter = HTMLExporter(
        theme=request.param, require_js_url="", mathjax_url="", mermaid_js_url=""
    )
    path = tmp_path_factory.mktemp(request.param) / "notebook.html"
    path.write_text(exporter.from_notebook_node(executed)[0], encoding="utf-8")
    tab.errors.clear()
    tab.requests.clear()
    tab.dark(request.param == "light")
    tab.open(path)
    tab.evaluate(
        "window.table = Array.from(document.querySelectorAll('.xsp-profile'))"
        ".find((each) => each.textContent.includes('ResNet50'))"
    )
    tab.evaluate(
        "window.rows = () => Array.from(table.querySelectorAll('tbody tr')).filter((row) => "
        "!row.hidden)"
        ".map((row) => [Number(row.dataset.depth), ...Array.from(row.cells, (cell) => "
        "cell.textContent)])"
    )
    tab.theme = request.param
    return tab


def test_example_runs(executed: Any) -> None:
    """Every cell runs without a GPU, and those that end in a profile, a table or a figure
    show it.
    """
    html = {
        cell["id"]: out["data"]["text/html"]
        for cell in executed.cells
        for out in cell.get("outputs", ())
        if "text/html" in out.get("data", {})
    }
    assert all('class="xsp-profile"' in html[name] for name in ("profile", "cell-magic", "capture"))
    assert "<table" in html["kernels"]
    assert "plotly" in html["figure"]


@in_browser
def test_exported_page_loads_nothing(page: Tab) -> None:
    """The notebook's outputs ask the network for nothing, and write no errors to the console."""
    assert page.requests[1:] == []
    assert page.errors == []
    assert page.evaluate(
        "document.querySelector('#figure-none, .js-plotly-plot svg.main-svg') !== null"
    )


@in_browser
def test_exported_table_folds(page: Tab) -> None:
    """Buttons fold everything, a triangle unfolds a node and its children only, and the largest
    shares come back.
    """
    click = "table.querySelector('.xsp-tools [data-do={}]').click()"
    first = page.evaluate("rows()")
    page.evaluate(click.format("fold"))
    folded = page.evaluate("rows()")
    assert {row[0] for row in folded} == {0, 1}
    page.evaluate(
        "Array.from(table.querySelectorAll('tr')).find((row) => "
        "row.textContent.startsWith('layer1'))"
        ".querySelector('.xsp-fold').click()"
    )
    unfolded = page.evaluate("rows()")
    children = [row[1] for row in unfolded if row not in folded]
    assert children == ["0", "1", "2", "(own time)"]
    page.evaluate(click.format("unfold"))
    assert len(page.evaluate("rows()")) == len(
        xsp.load(EXAMPLES / "captures" / "h100_resnet50.xsp").tree()
    )
    page.evaluate(click.format("hot"))
    assert page.evaluate("rows()") == first


@in_browser
def test_exported_table_sorts(page: Tab) -> None:
    """A click on a heading sorts siblings from the largest, a second from the smallest, a third as
    before.
    """
    first = page.evaluate("rows()")
    seen = []
    for _ in range(3):
        page.evaluate(
            "Array.from(table.querySelectorAll('th button')).find((b) => b.textContent === 'device "
            "ms').click()"
        )
        seen.append([row for row in page.evaluate("rows()") if row[0] == 1])
    values = [[float(row[6]) for row in rows] for rows in seen]
    assert values[0] == sorted(values[0], reverse=True)
    assert values[1] == sorted(values[1])
    assert values[0] != values[2]
    assert page.evaluate("rows()") == first


@in_browser
def test_exported_table_keeps_its_looks(page: Tab) -> None:
    """Inside a notebook's own styles shares are readable beside their bars, names are indented, and
    text contrasts.
    """
    facts = page.evaluate(
        """(() => {
            const row = table.querySelector("tbody tr");
            const share = row.querySelector(".xsp-share"), style = getComputedStyle(table);
            const left = (tr) => tr.querySelector(".xsp-fold").getBoundingClientRect().left;
            const child = Array.from(table.querySelectorAll("tbody tr")).find((each) => each.dataset.depth === "1");
            const bar = share.querySelector("i").getBoundingClientRect().width;
            return {cut: share.scrollWidth > share.clientWidth, indent: left(child) - left(row), bar,
                    track: share.querySelector(".xsp-track").getBoundingClientRect().width,
                    share: Number(share.dataset.v), colors: [style.color, style.backgroundColor],
                    warning: getComputedStyle(table.querySelector(".xsp-doubts b")).color,
                    facts: Array.from(table.querySelectorAll("dt"), (dt) => dt.getClientRects().length)};
        })()"""
    )
    assert not facts["cut"]
    assert facts["indent"] == pytest.approx(16, abs=1)
    assert facts["bar"] / facts["track"] == pytest.approx(facts["share"], abs=0.02)
    text, back = (
        sum(ast.literal_eval(color.removeprefix("rgba").removeprefix("rgb"))[:3]) / 765
        for color in facts["colors"]
    )
    assert (back - text if page.theme == "light" else text - back) > 0.7
    assert facts["warning"] == ("rgb(179, 89, 0)" if page.theme == "light" else "rgb(240, 160, 80)")
    assert page.evaluate("table.textContent.includes('Closure error of the corrected timeline')")
