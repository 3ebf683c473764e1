"""The package keeps its shape: floors, size, and entry points that nothing imports."""

import ast
from pathlib import Path

import lovecraft_jax

PACKAGE = Path(lovecraft_jax.__file__).parent
FLOORS = (
    {"errors", "hardware", "words", "conformal", "copying"},
    {"settings", "progress", "cleaning", "signals", "watchdog", "reference", "colours"},
    {"lock", "style", "curves", "svg", "excerpts"},
    {"corpus", "vocab", "workdir", "batches", "verdict"},
    {"data", "metrics", "baselines"},
    {"plots", "record"},
    # from here on jax and flax; record reads its versions only
    {"cache", "optimizer", "processes"},
    {"native", "checksums"},
    {"mesh", "ops"},
    {"fused", "norm"},
    {"lstm"},
    {"cudnn"},
    {"model"},
    {"state", "checkpoint"},
    {"decode", "step"},
    {"generate", "reading"},
    {"scoring", "cores"},
    {"program"},
    {"run", "journal"},
    {"guessing", "surprise", "units"},
    {"loop", "pandemonium"},
    {"findings"},
    {"page"},
    {"cli"},
    {"train", "sample", "evaluate", "report", "__main__"},
)
WITHOUT_JAX = set().union(*FLOORS[:5])


def imports(name: str) -> set[str]:
    """The top-level names and the package's own modules that a file imports."""
    found: set[str] = set()
    for node in ast.walk(ast.parse((PACKAGE / f"{name}.py").read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name.split(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module == "lovecraft_jax":
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            found.add(node.module.removeprefix("lovecraft_jax.").split(".")[0])
    return found


def test_every_file_has_a_floor_and_imports_only_from_below() -> None:
    assert {path.stem for path in PACKAGE.glob("*.py")} - {"__init__"} == set().union(*FLOORS)
    below: set[str] = set()
    for floor in FLOORS:
        for name in floor:
            own = imports(name) & set().union(*FLOORS)
            assert own <= below, f"{name}.py imports {own - below}, which do not stand below it"
        below |= floor


def test_the_lower_floors_do_without_jax() -> None:
    for name in WITHOUT_JAX:
        assert not imports(name) & {"jax", "flax", "optax", "orbax"}, name


def test_no_file_is_two_things() -> None:
    for path in PACKAGE.glob("*.py"):
        assert len(path.read_text().splitlines()) <= 250, path.name
