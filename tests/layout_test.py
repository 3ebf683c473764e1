"""The package keeps its shape: folders import only from folders below, data and stylometry need no jax."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

import lovecraft_jax

PACKAGE = Path(lovecraft_jax.__file__).parent
FOLDERS = ("runtime", "stylometry", "data", "model", "inference", "training", "probing", "report", "export", "sweep")
"""From the bottom to the top; a file imports from its own folder and those before it, of the first two only its own."""
MOST_LINES = 400


def _imports(file: Path) -> set[str]:
    """The modules that a file imports, as dotted names."""
    found: set[str] = set()
    for node in ast.walk(ast.parse(file.read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            found |= {f"{node.module}.{alias.name}" for alias in node.names}
    return found


def test_folders_import_only_from_folders_below() -> None:
    assert {path.parent.name for path in PACKAGE.glob("*/__init__.py")} == set(FOLDERS)
    for number, folder in enumerate(FOLDERS):
        above = {f"lovecraft_jax.{name}." for name in FOLDERS[number + 1 :]}
        for file in PACKAGE.glob(f"{folder}/**/*.py"):
            others = {name for name in _imports(file) if not name.startswith(f"lovecraft_jax.{folder}.")}
            wrong = {name for name in others if name.startswith("lovecraft_jax." if number < 2 else tuple(above))}
            assert not wrong, f"{file.relative_to(PACKAGE)} imports {wrong}, which do not stand below {folder}/"


@pytest.mark.parametrize("folder", ["data", "stylometry"])
def test_importing_a_folder_without_models_loads_no_jax(folder: str) -> None:
    modules = [f"lovecraft_jax.{folder}.{file.stem}" for file in PACKAGE.glob(f"{folder}/*.py")]
    check = f"import sys, lovecraft_jax, {', '.join(modules)}; sys.exit('jax' in sys.modules)"
    line = [sys.executable, "-c", check.replace(".__init__", "")]
    assert subprocess.run(line, cwd=PACKAGE.parent, check=False).returncode == 0


def test_entry_points_are_imported_by_nothing() -> None:
    for file in PACKAGE.rglob("*.py"):
        for entry in ("train", "sample", "evaluate", "report.__main__", "export.__main__", "sweep.__main__"):
            assert not {name for name in _imports(file) if f"{name}.".startswith(f"lovecraft_jax.{entry}.")}, file


def test_imports_between_files_have_no_cycles() -> None:
    modules = {".".join(file.relative_to(PACKAGE.parent).with_suffix("").parts): file for file in PACKAGE.rglob("*.py")}
    uses = {
        name: {other for module in _imports(file) for other in (module, module.rpartition(".")[0]) if other in modules}
        for name, file in modules.items()
    }
    done: set[str] = set()
    while ready := {name for name in uses.keys() - done if uses[name] <= done}:
        done |= ready
    assert not uses.keys() - done, f"these import each other: {sorted(uses.keys() - done)}"


def test_no_file_has_more_than_400_lines() -> None:
    for file in PACKAGE.rglob("*.py"):
        assert len(file.read_text().splitlines()) <= MOST_LINES, file
