"""The public names of a room: there, of the right home, and free until asked for."""

import ast
import importlib
import pkgutil
import subprocess
import sys
import types
from pathlib import Path

import pytest

from medjax.lazy import exported

ROOMS = ("medjax", "medjax.vlp", "medjax.mri", "medjax.segmentation")


def typed_names(room: types.ModuleType) -> dict[str, str]:
    """What type checkers see of a room: name to the module it comes from."""
    tree = ast.parse(Path(room.__path__[0], "__init__.py").read_text())
    (block,) = [
        node
        for node in tree.body
        if isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING"
    ]
    imports = [node for node in block.body if isinstance(node, ast.ImportFrom)]
    # ``import X as X`` is how a stub re-exports.
    assert all(a.name == a.asname for node in imports for a in node.names)
    return {a.name: str(node.module) for node in imports for a in node.names}


@pytest.mark.parametrize("name", ROOMS)
def test_what_is_promised_is_there_and_is_what_its_home_has(name):
    room = importlib.import_module(name)
    typed = typed_names(room)
    assert sorted(typed) == dir(room)
    for public, home in typed.items():
        found = getattr(room, public)
        if home == name:  # a module of the room
            assert found is importlib.import_module(f"{name}.{public}")
        else:
            assert found is getattr(importlib.import_module(home), public)


@pytest.mark.parametrize("name", ROOMS)
def test_a_name_means_the_same_whatever_was_imported_before(name):
    room = importlib.import_module(name)
    inside = {module.name for module in pkgutil.iter_modules(room.__path__)}
    both = inside & set(dir(room))
    assert all(isinstance(getattr(room, public), types.ModuleType) for public in both)


def test_importing_rooms_does_not_wait_for_jax():
    heavy = "any(name in sys.modules for name in ('jax', 'numpy'))"
    code = f"import sys, {', '.join(ROOMS)}; sys.exit({heavy})"
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0


def test_files_are_read_without_jax():
    code = "import sys, medjax.data.{}; sys.exit('jax' in sys.modules)"
    for home in ("tables", "images", "records"):
        command = [sys.executable, "-c", code.format(home)]
        assert subprocess.run(command).returncode == 0


def test_what_is_not_promised_is_no_attribute():
    find, _ = exported("medjax", {"typing": ("Key",)})
    assert find("Key") is importlib.import_module("medjax.typing").Key
    with pytest.raises(AttributeError, match="'medjax' has no attribute 'Chart'"):
        find("Chart")
