"""Lists every door: ``python -m experiments``."""

import ast
import sys
from pathlib import Path

HERE = Path(__file__).parent


def doors() -> dict[str, str]:
    """What can be run, by name, with the first line of what it says of itself."""
    files = [
        *HERE.glob("*.py"),
        *HERE.glob("*/__init__.py"),
        *HERE.glob("compare/*.py"),
    ]
    found = {}
    for path in sorted(files):
        parts = path.relative_to(HERE).with_suffix("").parts
        name = ".".join(part for part in parts if part != "__init__")
        text = path.read_text()
        package = path.stem == "__init__" and (path.parent / "__main__.py").exists()
        runs = package or 'if __name__ == "__main__":' in text
        if not name or name == "__main__" or not runs:
            continue
        about = ast.get_docstring(ast.parse(text)) or ""
        found[name] = (
            about.split("\n\n")[0].replace("\n", " ").split("``")[0].strip(" :,")
        )
    return found


def main() -> int:
    """Prints the list."""
    print("python -m experiments.NAME --help tells of each:\n")
    listed = doors()
    width = max(map(len, listed))
    for name, about in listed.items():
        print(f"  {name.ljust(width)}  {about}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
