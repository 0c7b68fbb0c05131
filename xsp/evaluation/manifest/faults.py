"""What pydantic found wrong, in words: the value, the rule, the way out."""

from __future__ import annotations

import difflib
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from pydantic import BaseModel
from pydantic_core import ErrorDetails

from xsp.evaluation.manifest.document import Path

_SHOWN = 60
"""Characters of a wrong value that are shown."""

_TYPES = {
    "string_type": "text; put it in quotes",
    "int_type": "a whole number without quotes",
    "int_from_float": "a whole number",
    "float_type": "a number without quotes",
    "bool_type": "true or false",
    "tuple_type": "a list",
    "dict_type": "a mapping",
    "mapping_type": "a mapping",
    "model_type": "a mapping",
    "model_attributes_type": "a mapping",
    "finite_number": "a finite number",
    "is_instance_of": "a mapping",
}
_MAIN_KEYS: Mapping[str | int, str] = {
    "framework": "name",
    "runtime": "predictor",
    "scenario": "kind",
    "make": "function",
    "preprocess": "function",
    "postprocess": "function",
}
_BOUNDS = {
    "greater_than": ("gt", ">"),
    "greater_than_equal": ("ge", ">="),
    "less_than": ("lt", "<"),
    "less_than_equal": ("le", "<="),
}


def path_of(error: ErrorDetails, content: Any) -> Path:
    """Where an error is in the document. pydantic's own path also names the member of each union
    that was tried, which the document does not.
    """
    path: list[str | int] = []
    here = content
    for place, each in enumerate(error["loc"]):
        last = place == len(error["loc"]) - 1
        if isinstance(here, Mapping) and (each in here or (last and error["type"] == "missing")):
            here = here.get(str(each))
        elif isinstance(here, Sequence) and isinstance(each, int) and each < len(here):
            here = here[each]
        else:
            continue
        path.append(each)
    return tuple(path)


def in_words(error: ErrorDetails, path: Path, root: type[BaseModel]) -> str:
    """What follows `file:line key: `."""
    kind = error["type"]
    if kind in _TYPES:
        return f"must be {_TYPES[kind]}{_such_as(error, path)}, not {_shown(error['input'])}"
    if kind in _BOUNDS:
        name, sign = _BOUNDS[kind]
        return f"must be {sign} {error['ctx'][name]:.15g}, not {_shown(error['input'])}"
    return _SENTENCES.get(kind, _other)(error, path, root)


def _such_as(error: ErrorDetails, path: Path) -> str:
    """The mapping that a single word stands for, where a part has one key that says most."""
    key = _MAIN_KEYS.get(path[-1]) if path else None
    word = error["input"]
    if key is None or _TYPES[error["type"]] != "a mapping" or not isinstance(word, str):
        return ""
    return f" such as {{{key}: {word[:_SHOWN]}}}"


def meant(error: ErrorDetails, path: Path, root: type[BaseModel]) -> str | None:
    """The key that an unknown one is a misspelling of, if it is close to one."""
    if error["type"] != "extra_forbidden":
        return None
    known = sorted(_keys_beside(error["loc"], root))
    near = difflib.get_close_matches(str(path[-1]), known, 1)
    return near[0] if near else None


def _missing(error: ErrorDetails, _path: Path, _root: type[BaseModel]) -> str:
    there = error["input"]
    has = f"; there is {', '.join(list(there)[:8])}" if isinstance(there, Mapping) else ""
    return f"is missing{has}"


def _unknown(error: ErrorDetails, path: Path, root: type[BaseModel]) -> str:
    near = meant(error, path, root)
    known = sorted(_keys_beside(error["loc"], root))
    hint = f"did you mean {near}?" if near else f"known are {', '.join(known)}"
    return f"is no key of this part; {hint}"


def _choice(error: ErrorDetails, _path: Path, _root: type[BaseModel]) -> str:
    expected = error["ctx"]["expected"]
    return f"must be {expected}, not {_shown(error['input'])}"


def _kind(error: ErrorDetails, _path: Path, _root: type[BaseModel]) -> str:
    name = error["ctx"]["discriminator"].strip("'")
    tags = error["ctx"]["expected_tags"]
    return f"has the {name} {_shown(error['ctx']['tag'])}, which must be one of {tags}"


def _no_kind(error: ErrorDetails, _path: Path, _root: type[BaseModel]) -> str:
    name = error["ctx"]["discriminator"].strip("'")
    return f"says no {name}; it is needed to know what the other keys mean"


def _pattern(error: ErrorDetails, _path: Path, _root: type[BaseModel]) -> str:
    rule = _PATTERNS.get(error["ctx"]["pattern"], f"of the form {error['ctx']['pattern']}")
    return f"must be {rule}, not {_shown(error['input'])}"


def _length(error: ErrorDetails, _path: Path, _root: type[BaseModel]) -> str:
    least, most = error["ctx"].get("min_length"), error["ctx"].get("max_length")
    bound = f"at least {least}" if least is not None else f"at most {most}"
    what = "characters" if error["type"].startswith("string") else "items"
    return f"must have {bound} {what}"


def _own(error: ErrorDetails, _path: Path, _root: type[BaseModel]) -> str:
    return error["msg"].removeprefix("Value error, ")


def _other(error: ErrorDetails, _path: Path, _root: type[BaseModel]) -> str:
    return f"{error['msg'][0].lower()}{error['msg'][1:]}, not {_shown(error['input'])}"


_Sentence = Callable[[ErrorDetails, Path, type[BaseModel]], str]
_SENTENCES: dict[str, _Sentence] = {
    "missing": _missing,
    "extra_forbidden": _unknown,
    "literal_error": _choice,
    "enum": _choice,
    "union_tag_invalid": _kind,
    "union_tag_not_found": _no_kind,
    "string_pattern_mismatch": _pattern,
    "string_too_short": _length,
    "string_too_long": _length,
    "too_short": _length,
    "too_long": _length,
    "value_error": _own,
}
_PATTERNS = {
    r"^[0-9a-f]{64}$": "a sha256: 64 lower-case hexadecimal digits, which `sha256sum FILE` prints",
    r"^[^\x00-\x1f]+$": "text of one line",
    r"^[^\x00-\x1f\\]+$": "a path of one line, with / between its parts",
    r"^https://[^\s]+$": "an address that begins with https://",
    r"^[^\s:]+:[A-Za-z_]\w*$": "`file.py:function` or `package.module:function`",
    r"^(cpu|cuda(:\d+)?)$": "cpu, cuda or cuda:N",
    r"^[A-Z]{3}$": "three capital letters, such as USD",
}


def _shown(value: Any) -> str:
    if isinstance(value, Mapping):
        return "a mapping"
    if isinstance(value, (list, tuple)):
        return "a list"
    text = {True: "true", False: "false", None: "nothing"}.get(value) if _is_word(value) else None
    text = text or repr(value)
    return text if len(text) <= _SHOWN else f"{text[:_SHOWN]}…"


def _is_word(value: Any) -> bool:
    return value is None or isinstance(value, bool)


def _keys_beside(loc: Sequence[str | int], root: type[BaseModel]) -> set[str]:
    """Keys of the part that an unknown key stands in: found in the JSON schema along the path."""
    schema = root.model_json_schema()
    here: Any = schema
    for each in loc[:-1]:
        here = _descended(here, each, schema)
    return set(_resolved(here, schema).get("properties", {}))


def _descended(here: Any, step: str | int, schema: Mapping[str, Any]) -> Any:
    found = _resolved(here, schema)
    if isinstance(step, int):
        return found.get("items", {})
    if step in found.get("properties", {}):
        return found["properties"][step]
    tags = found.get("discriminator", {}).get("mapping", {})
    return {"$ref": tags[step]} if step in tags else found.get("additionalProperties") or {}


def _resolved(here: Any, schema: Mapping[str, Any]) -> Mapping[str, Any]:
    while isinstance(here, Mapping):
        if "$ref" in here:
            here = schema["$defs"][here["$ref"].rpartition("/")[2]]
            continue
        options = [each for each in here.get("anyOf", ()) if each.get("type") != "null"]
        if len(options) != 1:
            return here
        here = options[0]
    return {}
