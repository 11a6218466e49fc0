"""The rules of the house, held by walking the import graph."""

import ast
import builtins
import dis
import re
import subprocess
import types
from pathlib import Path

import pytest

from experiments.__main__ import doors

ROOT = Path(__file__).resolve().parents[1]
SHARED = {"nn", "metrics", "data", "weights", "train", "report"}
DOMAINS = {"vlp", "mri", "heart", "segmentation"}


def imported_modules(path: Path) -> set[str]:
    """Absolute names that a file imports, whether at its top or inside a function."""
    names: set[str] = set()
    package = path.relative_to(ROOT).with_suffix("").parts
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            base = node.module or ""
            if node.level:
                base = ".".join([*package[: -node.level], base]).strip(".")
            names |= {base} | {f"{base}.{alias.name}" for alias in node.names}
    return names


def files(folder: str) -> list[Path]:
    return sorted((ROOT / folder).rglob("*.py"))


def rooms(names: set[str]) -> set[str]:
    """The rooms of medjax that a set of module names reaches into."""
    return {n.split(".")[1] for n in names if n.startswith("medjax.")}


TOP = {
    *(".gitignore", "CHANGELOG.md", "CITATION.cff", "CONTRIBUTING.md", "LICENSE"),
    *("README.md", "pyproject.toml"),
    *(".ci", "experiments", "kernels", "medjax", "tests"),
}
"""What stands at the top, and nothing that a command left there."""


def test_nothing_strays_at_the_top():
    if not (ROOT / ".git").exists():
        pytest.skip("what is kept is known in a git checkout only")
    listed = subprocess.run(
        ["git", "ls-files"], cwd=ROOT, capture_output=True, text=True, check=True
    )
    assert {path.split("/")[0] for path in listed.stdout.splitlines()} == TOP


@pytest.mark.parametrize(
    "path", files("medjax"), ids=lambda p: str(p.relative_to(ROOT))
)
def test_medjax_imports_only_what_its_room_may(path):
    names = imported_modules(path)
    room = path.relative_to(ROOT / "medjax").parts[0]
    assert not any(n.split(".")[0] in {"experiments", "tests", "torch"} for n in names)
    if room in SHARED:
        assert not rooms(names) & DOMAINS, f"{room} knows no domain"
    if room in DOMAINS:
        assert not rooms(names) & (DOMAINS - {room}), "no domain knows another"


@pytest.mark.parametrize(
    "path", files("kernels/medjax_kernels"), ids=lambda p: str(p.relative_to(ROOT))
)
def test_kernels_know_nothing_of_medjax(path):
    tops = {n.split(".")[0] for n in imported_modules(path)}
    assert not tops & {"medjax", "experiments", "flax", "optax", "tests"}


def test_kernels_folder_never_shadows_a_package_of_that_name():
    assert not (ROOT / "kernels" / "__init__.py").exists()


def test_only_one_file_transforms():
    """XLA gathers a batch to transform it; `medjax_kernels.fft` does not."""
    every = [*files("medjax"), *files("experiments"), *files("kernels/medjax_kernels")]
    pattern = re.compile(r"jnp\.fft\.i?r?fftn?2?\(|lax\.fft\(")
    found = {str(p.relative_to(ROOT)) for p in every if pattern.search(p.read_text())}
    # The oracle is meant to be read, not run on many devices.
    oracle = "kernels/medjax_kernels/data_consistency/reference.py"
    assert found == {"kernels/medjax_kernels/fft.py", oracle}


def unknown_names(path: Path) -> set[str]:
    """Names that code of a file looks up and nobody gives.

    The linter and the type checker cannot tell: shape strings look like names to them.
    """
    whole = compile(path.read_text(), str(path), "exec")
    every, codes = [whole], [whole]
    while codes:
        inner = [c for c in codes.pop().co_consts if isinstance(c, types.CodeType)]
        every += inner
        codes += inner
    given, asked = set(dir(builtins)) | {"__file__", "__name__"}, set()
    for code in every:
        for step in dis.get_instructions(code):
            if step.opname in {"STORE_NAME", "STORE_GLOBAL"} and code is whole:
                given.add(step.argval)
            elif step.opname == "LOAD_GLOBAL":
                asked.add(step.argval)
    return asked - given


def test_every_name_is_somebodys():
    every = [*files("medjax"), *files("experiments"), *files("kernels/medjax_kernels")]
    unknown = {str(p.relative_to(ROOT)): unknown_names(p) for p in every}
    assert not {name: names for name, names in unknown.items() if names}


def test_a_name_that_nobody_gives_is_found(tmp_path):
    (tmp_path / "a.py").write_text("def f(x):\n    return x if n > 1 else len(x)\n")
    assert unknown_names(tmp_path / "a.py") == {"n"}


def test_no_drawer_without_a_name():
    assert not [p for p in files("medjax") if p.name in {"utils.py", "helpers.py"}]


def test_no_file_outgrows_its_room():
    every = [*files("medjax"), *files("experiments"), *files("kernels/medjax_kernels")]
    lines = {str(p.relative_to(ROOT)): len(p.read_text().splitlines()) for p in every}
    assert not {name: n for name, n in lines.items() if n > 500}


def test_results_do_not_say_where_they_were_made():
    kept = sorted((ROOT / "experiments/results").rglob("*.json"))
    found = [
        f"{path.name}: {text}"
        for path in kept
        for text in re.findall(r'"(/[\w.-]+/[^"]*)"', path.read_text())
    ]
    assert kept and not found


def test_what_is_listed_as_a_door_opens():
    """Modules that doors share are no doors."""
    for name in doors():
        place = ROOT / "experiments" / name.replace(".", "/")
        file = place / "__main__.py" if place.is_dir() else place.with_suffix(".py")
        assert re.search(r"^ +(sys\.exit\()?(\w+\.)?main\(", file.read_text(), re.M), (
            name
        )
    assert "imitate" in doors() and "bench" in doors()
