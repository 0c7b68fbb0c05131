"""Every exception that xsp raises on purpose.

A message gives the value that was wrong, the rule it broke and the way out.
"""


class XspError(Exception):
    """Root of every exception raised on purpose."""


class TargetError(XspError):
    """What was handed over to be profiled is not a model, a callable or a target file."""


class NothingRecordedError(XspError):
    """The profiled block never called the model in a way that can be run again."""


class CaptureError(XspError):
    """A file is not a capture, is damaged, or was written by a newer xsp."""


class WriteError(XspError):
    """A file cannot be written where it was asked for; what stood there is as it was."""


class LevelError(XspError):
    """A level was asked for that does not exist or cannot be traced here."""


class BudgetError(XspError):
    """A budget, or another option of a performance test, does not exist or has an
    impossible value.
    """


class BaselineError(XspError):
    """A baseline that was asked for is not there, or a file is not a baseline or a damaged one."""


class GraphError(XspError):
    """A model cannot be read as a graph of layers: a damaged file, a dynamic shape, an operator
    that nothing is known of.
    """


class DatabaseError(XspError):
    """A performance database cannot be opened, read or written."""


class EvaluationError(XspError):
    """An evaluation cannot be run: a package, an artifact or a runtime is missing or does not fit,
    or the record that was asked for is not there.
    """


class ManifestError(EvaluationError):
    """A manifest breaks a rule; the message has a line `file:line key: what` for each."""


class DispatchError(EvaluationError):
    """Jobs cannot be handed out: no agent can run them, or the cluster cannot be reached."""


class TracingError(XspError):
    """A tracer failed while it was recording; what it saw cannot be trusted."""


class SettingError(XspError):
    """A variable `XSP_…` or the table `[tool.xsp]` of a pyproject.toml has an impossible value."""


class MissingPackageError(XspError, ImportError):
    """A package that only a part of xsp needs, such as torch, is not installed."""


class ExportError(XspError):
    """Spans could not be handed over; `lost` of them did not arrive, `delivered` did."""

    def __init__(self, message: str, *, lost: int = 0, delivered: int = 0) -> None:
        super().__init__(message)
        self.lost = lost
        self.delivered = delivered
