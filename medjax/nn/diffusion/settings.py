"""Configuration files of ``diffusers`` as dataclasses: nothing is passed over.

A key that changes what a network computes and is not known here would give other images
without a sound. So every key is a field, or has to have the one value that the network
here is built for, or is known to mean nothing, or is refused.
"""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any, TypeVar

from medjax.data.documents import revive

C = TypeVar("C")


def read_settings(
    kind: type[C],
    content: Mapping[str, Any],
    fixed: Mapping[str, tuple[Any, ...]],
    aside: Sequence[str],
    **compute: Any,
) -> C:
    """A configuration from a file's content.

    Args:
      kind: dataclass whose fields have the file's names.
      content: what the file holds.
      fixed: keys that must have one of these values.
      aside: keys without a meaning for what is computed.
      **compute: fields that no file has.

    Raises:
      ValueError: a key that is not known and says something, or a value that is not
        the one there is.
    """
    names = {field.name for field in dataclasses.fields(kind)} - set(compute)  # pyright: ignore[reportArgumentType]
    found = {}
    for key, value in content.items():
        if key in names:
            if value is not None:
                found[key] = value
        elif key in fixed:
            if value not in fixed[key]:
                raise ValueError(
                    f"{key}: expected {' or '.join(map(repr, fixed[key]))}, got "
                    f"{value!r}: another network than this one"
                )
        elif not (key.startswith("_") or key in aside or value in (None, False)):
            raise ValueError(f"{key}: not known, and it is {value!r}")
    return revive(kind, {**found, **compute})


def as_settings(config: Any, *, compute: Sequence[str], **more: Any) -> dict[str, Any]:
    """The content of a file that `read_settings` and ``diffusers`` read.

    Args:
      config: the dataclass.
      compute: names of its fields that no file has.
      **more: further keys, such as ``_class_name``.
    """
    values = dataclasses.asdict(config)
    return {**more, **{k: v for k, v in values.items() if k not in compute}}
