"""Public names of a room that cost nothing until they are used (PEP 562).

A room's ``__init__`` says which of its modules each name comes from; the module is
imported when the name is first asked for, so that ``import medjax.vlp`` does not wait
for JAX. Beside it the same names stand in an ``if TYPE_CHECKING`` block, which type
checkers and editors read; a test holds the two to each other.

A name that is also a module's (``imitate``) always means the module: what an import
statement binds to it must not depend on what was imported before.
"""

import importlib
from collections.abc import Callable, Mapping, Sequence
from typing import Any


def exported(
    room: str, homes: Mapping[str, Sequence[str]], modules: Sequence[str] = ()
) -> tuple[Callable[[str], Any], Callable[[], list[str]]]:
    """The ``__getattr__`` and ``__dir__`` of a room.

    Args:
        room: Its ``__name__``.
        homes: Module below the room to the names that it gives.
        modules: Modules below the room that are public themselves.

    Returns:
        Two functions, to be bound to these names.
    """
    where = {name: module for module, names in homes.items() for name in names}
    where |= dict.fromkeys(modules, "")

    def find(name: str) -> Any:
        if name not in where:
            raise AttributeError(f"module {room!r} has no attribute {name!r}")
        home = importlib.import_module(f"{room}.{where[name] or name}")
        return getattr(home, name) if where[name] else home

    return find, lambda: sorted(where)
