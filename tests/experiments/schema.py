"""Documents held to a JSON schema, as far as the schemas of these tests go."""

import re
from collections.abc import Iterator
from typing import Any

_TYPES = {
    "object": dict,
    "array": list,
    "string": str,
    "integer": int,
    "boolean": bool,
}
_KNOWN = {
    *("$comment", "type", "const", "enum", "minLength", "minimum", "maximum"),
    *("pattern", "minItems", "items", "required", "properties"),
    "additionalProperties",
}


def faults(document: Any, schema: dict[str, Any], at: str = "$") -> Iterator[str]:
    """What is wrong with a document, with the place.

    Raises:
      ValueError: The schema has a word that nobody checks here.
    """
    if unknown := set(schema) - _KNOWN:
        raise ValueError(f"{at}: a schema with {sorted(unknown)}")
    kinds = schema.get("type", list(_TYPES))
    kinds = [kinds] if isinstance(kinds, str) else kinds
    if not any(_is(document, kind) for kind in kinds):
        yield f"{at}: {document!r} is no {' or '.join(kinds)}"
        return
    if "const" in schema and document != schema["const"]:
        yield f"{at}: {document!r}, expected {schema['const']!r}"
    if "enum" in schema and document not in schema["enum"]:
        yield f"{at}: {document!r}, expected one of {schema['enum']}"
    if isinstance(document, str):
        if len(document) < schema.get("minLength", 0):
            yield f"{at}: an empty string"
        if not re.search(schema.get("pattern", ""), document):
            yield f"{at}: {document!r} does not match {schema['pattern']}"
    elif isinstance(document, int):
        least, most = schema.get("minimum", document), schema.get("maximum", document)
        if not least <= document <= most:
            yield f"{at}: {document}, expected {least} to {most}"
    elif isinstance(document, list):
        if len(document) < schema.get("minItems", 0):
            yield f"{at}: too few items"
        for n, each in enumerate(document):
            yield from faults(each, schema.get("items", {}), f"{at}[{n}]")
    elif isinstance(document, dict):
        own = schema.get("properties", {})
        for name in set(schema.get("required", ())) - set(document):
            yield f"{at}: lacks {name}"
        for name, each in document.items():
            other = schema.get("additionalProperties", {})
            if name not in own and other is False:
                yield f"{at}: {name} is no field"
            else:
                yield from faults(each, own.get(name, other), f"{at}.{name}")


def _is(document: Any, kind: str) -> bool:
    """In Python True is an integer; in JSON it is none."""
    if kind == "integer" and isinstance(document, bool):
        return False
    return isinstance(document, _TYPES[kind])
