"""Just enough TOML to write a configuration: the standard library only reads it."""

import json
from collections.abc import Mapping
from typing import Any


def to_toml(tree: Mapping[str, Any]) -> str:
    """A map of scalars and of one level of tables (maps inside a table become inline tables)."""
    lines = [f"{key} = {_value(value)}" for key, value in tree.items() if not isinstance(value, Mapping)]
    for name, table in tree.items():
        if isinstance(table, Mapping):
            lines += ["", f"[{name}]", *(f"{key} = {_value(value)}" for key, value in table.items())]
    return "\n".join(lines) + "\n"


def _value(value: Any) -> str:
    if isinstance(value, Mapping):
        return "{ " + ", ".join(f"{_text(str(key))} = {_value(one)}" for key, one in value.items()) + " }"
    if isinstance(value, str):
        return _text(value)
    if isinstance(value, bool | int | float):
        return json.dumps(value)
    raise TypeError(f"{type(value).__name__} has no place in a configuration file")


def _text(text: str) -> str:
    """A JSON string is a TOML string, but for surrogate pairs (TOML has none) and an unescaped DEL."""
    return json.dumps(text, ensure_ascii=False).replace("\x7f", "\\u007f")
