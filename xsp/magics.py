"""`%load_ext xsp`: profile a call with `%xsp model(x)`, the calls of a model in a cell with
`%%xsp model`.
"""

from __future__ import annotations

import ast
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from types import CodeType
from typing import Any, cast

from IPython.core.error import UsageError
from IPython.core.interactiveshell import InteractiveShell
from IPython.core.magic import Magics, line_cell_magic, magics_class, needs_local_scope

from xsp.errors import XspError
from xsp.measuring.options import Options, read, textual
from xsp.profiler import measure_with, profile
from xsp.profiles import Profile

_FILE = "<%xsp>"
_USAGE = "%xsp [options] CALL or %%xsp [options] MODEL"
_OUTPUT = "output"
_FLAGS = {"-o": _OUTPUT} | {f"--{name.replace('_', '-')}": name for name in textual()}


@dataclass
class _Line:
    """What stands behind the magic's name: options of `xsp.measure`, the name to bind, if any, and
    code.
    """

    code: str
    options: dict[str, Any] = field(default_factory=dict)
    output: str | None = None

    @classmethod
    def parsed(cls, text: str) -> _Line:
        """Raises UsageError for options that do not exist, and where there is no code, XspError for
        a value that an option cannot have.
        """
        line = cls(text.strip())
        while line.code.startswith(("-o", "--")):
            flag, value = line._next_word("=")
            if flag not in _FLAGS:
                raise UsageError(f"there is no option {flag}; the options are {', '.join(_FLAGS)}")
            name = _FLAGS[flag]
            needs_value = textual().get(name) is not bool
            line._take(name, value or (line._next_word()[0] if needs_value else ""))
        if not line.code:
            raise UsageError(f"nothing to profile was given; usage: {_USAGE}")
        return line

    def _next_word(self, separator: str = " ") -> tuple[str, str]:
        """Take a word off the code; what stands before and behind `separator` in it."""
        word, _, rest = self.code.partition(" ")
        self.code = rest.strip()
        before, _, behind = word.partition(separator)
        return before, behind

    def _take(self, name: str, value: str) -> None:
        if name != _OUTPUT:
            self.options[name] = read(name, value)
        elif value.isidentifier():
            self.output = value
        else:
            raise UsageError(f"-o must be the name of a variable, not {value!r}")

    def expression(self) -> ast.Expression:
        """The code, parsed. Raises UsageError if it is not an expression."""
        code = self.code.strip()
        try:
            return ast.parse(code, _FILE, "eval")
        except SyntaxError as error:
            raise UsageError(
                f"{code!r} is not an expression ({error.msg}); options come before the code: "
                f"{_USAGE}"
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
                                    An expression that is not a call of a name is evaluated again
                                    for each run.
        %%xsp [options] model       run the cell once, as inside `with xsp.profile(model):`

        Options come before the code: `-o NAME` also binds the profile to this name; the others are
        those of `xsp.measure` that can be written as text, such as `--levels M/L --iterations 5`.
        """
        shell = cast(InteractiveShell, self.shell)
        scope = _Scope(shell.user_ns, local_ns)
        with _short_errors():
            asked = _Line.parsed(line)
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
    options = Options.of(**asked.options)
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
    return measure_with(function, args, kwargs, options)


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
