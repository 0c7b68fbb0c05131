"""`%load_ext xsp`: profile a call with `%xsp model(x)`, the calls of a model in a cell with
`%%xsp model`.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from types import CodeType
from typing import Any, cast

from IPython.core.error import UsageError
from IPython.core.interactiveshell import InteractiveShell
from IPython.core.magic import Magics, line_cell_magic, magics_class, needs_local_scope

from xsp.errors import XspError
from xsp.measuring.profiling import climbed
from xsp.measuring.settings import Settings
from xsp.measuring.target import target_of
from xsp.profiler import profile
from xsp.profiles import Profile

_FILE = "<%xsp>"
_USAGE = (
    "%xsp CALL or %%xsp MODEL, with options [-o NAME] [--levels M/L/Lib/K] [--iterations N] "
    "[--budget SECONDS]"
)

# Neither `model(x) --levels M/L` nor `-o prof model(x)` is Python, so options at the ends cannot be
# part of the code.
_OPTION = r"(?P<option>-o|--levels|--iterations|--budget)(?:=|\s+)(?P<value>[-\w./]+)"
_FIRST, _LAST = re.compile(rf"^\s*{_OPTION}(?:\s+|$)"), re.compile(rf"(?:^|\s+){_OPTION}\s*$")
_KEYWORDS: Mapping[str, tuple[str, Callable[[str], Any]]] = {
    "--levels": ("levels", str),
    "--iterations": ("iterations", int),
    "--budget": ("budget_s", float),
}


@dataclass
class _Line:
    """What stands behind the magic's name: code, options of `xsp.measure`, and the name to bind, if
    any.
    """

    code: str
    options: dict[str, Any] = field(default_factory=dict)
    output: str | None = None

    @classmethod
    def parsed(cls, text: str) -> _Line:
        """Raises UsageError for options that cannot be, and where there is no code."""
        line = cls(text)
        while found := _FIRST.search(line.code):
            line._take(found["option"], found["value"])
            line.code = line.code[found.end() :]
        while found := _LAST.search(line.code):
            line._take(found["option"], found["value"])
            line.code = line.code[: found.start()]
        if not line.code.strip():
            raise UsageError(f"nothing to profile was given; usage: {_USAGE}")
        return line

    def _take(self, option: str, value: str) -> None:
        if option == "-o":
            if not value.isidentifier():
                raise UsageError(f"-o {value} cannot be: the name of a variable is needed")
            self.output = value
            return
        keyword, converted = _KEYWORDS[option]
        try:
            self.options[keyword] = converted(value)
        except ValueError:
            raise UsageError(f"{option} {value} cannot be: a number is needed") from None

    def expression(self) -> ast.Expression:
        """The code, parsed. Raises UsageError if it is no expression."""
        code = self.code.strip()
        try:
            return ast.parse(code, _FILE, "eval")
        except SyntaxError as error:
            raise UsageError(
                f"{code!r} is not an expression ({error.msg}); usage: {_USAGE}"
            ) from None


@magics_class
class XspMagics(Magics):
    """The magics of `%load_ext xsp`."""

    @needs_local_scope
    @line_cell_magic
    def xsp(
        self, line: str, cell: str | None = None, local_ns: dict[str, Any] | None = None
    ) -> Profile:
        """Profile a call, or the calls of a model that a cell makes. The profile is the value.

        %xsp [options] model(x)     measure the call. Its arguments are computed once; a model is
        left as it was.
                                    An expression that is no call of a name is evaluated again for
                                    each run.
        %%xsp [options] model       run the cell once, as inside `with xsp.profile(model):`

        Options, before or behind the code:
        -o NAME            also bind the profile to this name
        --levels M/L       levels to trace; all by default
        --iterations N     rounds; by default until the latency is known to within 1 %
        --budget SECONDS   for the rounds, without --iterations; 30 by default
        """
        asked = _Line.parsed(line)
        shell = cast(InteractiveShell, self.shell)
        scope = _Scope(shell.user_ns, local_ns)
        with _short_errors():
            if cell is None:
                prof = _called(asked, scope)
            else:
                with profile(scope.value(asked.expression()), **asked.options) as prof:
                    scope.run(_compiled(shell, cell))
        if asked.output is not None:
            shell.user_ns[asked.output] = prof
        return prof


@contextmanager
def _short_errors() -> Iterator[None]:
    """What xsp refuses is one sentence; what the user's code raises keeps its traceback."""
    try:
        yield
    except XspError as error:
        raise UsageError(str(error)) from None


@dataclass(frozen=True)
class _Scope:
    """The user's variables."""

    shared: dict[str, Any]
    local: dict[str, Any] | None

    def function(self, tree: ast.Expression) -> Callable[[], Any]:
        """A function that evaluates the user's expression."""
        code = compile(ast.fix_missing_locations(tree), _FILE, "eval")
        return lambda: eval(code, self.shared, self.local)  # noqa: S307 - the user's own expression

    def value(self, tree: ast.Expression) -> Any:
        return self.function(tree)()

    def run(self, code: CodeType) -> None:
        exec(code, self.shared, self.local)  # noqa: S102 - the user's own cell


def _compiled(shell: Any, cell: str) -> CodeType:
    """A cell as IPython compiles it, with its own syntax, and with its lines in tracebacks."""
    source = shell.transform_cell(cell)
    name = shell.compile.cache(source)
    code: CodeType = shell.compile(
        shell.transform_ast(shell.compile.ast_parse(source, name)), name, "exec"
    )
    return code


def _called(asked: _Line, scope: _Scope) -> Profile:
    options = {"levels": None, "iterations": None, "budget_s": None} | asked.options
    settings = Settings.of(**options, warmup=None, seed=0, progress=None)
    tree = asked.expression()
    call = tree.body
    if isinstance(call, ast.Name | ast.Attribute):
        raise UsageError(
            f"{asked.code.strip()!r} calls nothing; give a call, such as {asked.code.strip()}(x)"
        )
    if isinstance(call, ast.Call) and _is_name(call.func):
        function, args, kwargs = scope.value(_parts(call))
    else:
        function, args, kwargs = scope.function(tree), (), {}
        function.__qualname__ = asked.code.strip()
    return Profile(climbed(target_of(function, args, kwargs), settings))


def _is_name(tree: ast.expr) -> bool:
    """Can the function be looked up once? That of `f(x).backward()` cannot: it comes from a call of
    f.
    """
    return not any(isinstance(each, ast.Call) for each in ast.walk(tree))


def _parts(call: ast.Call) -> ast.Expression:
    """An expression for function, arguments and keywords of a call, each computed once and in
    Python's order.
    """
    collect = ast.parse(
        "lambda function, /, *args, **kwargs: (function, args, kwargs)", mode="eval"
    ).body
    return ast.Expression(ast.Call(collect, [call.func, *call.args], call.keywords))


def load_ipython_extension(shell: InteractiveShell) -> None:
    """Register the magics; `%load_ext xsp` calls it."""
    shell.register_magics(XspMagics)
