"""Arrows between the folders run one way, and what is slow to import is imported when needed."""

from __future__ import annotations

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
FOLDERS = ("backends", "cimc", "dialects", "models", "passes", "runtime")

# What each folder may import of ours. `cimc` itself, the face, knows everything.
_SHARED = ("cimc.diagnostics", "cimc.configuration")
_FORMAT = (
    "cimc.runtime.numerics",
    "cimc.runtime.program",
    "cimc.runtime.crossbar",
    # ring depths are computed by the verifier's abstract run, which is the definition of "no deadlock"
    "cimc.runtime.verifier",
)
ALLOWED = {
    "dialects": ("cimc.dialects", *_SHARED),
    "passes": ("cimc.passes", "cimc.dialects", *_FORMAT, *_SHARED),
    "backends": ("cimc.backends", "cimc.passes", "cimc.dialects", *_FORMAT, *_SHARED),
    "runtime": ("cimc.runtime", *_SHARED),
    "models": ("cimc.models", *_SHARED),
    "cimc": ("cimc",),
}

# Slow to import (torch 2 s, scikit-learn 2 s, scipy 0.5 s, onnx 0.2 s): inside functions only, except
# where the folder is about nothing else.
HEAVY = ("matplotlib", "onnx", "onnxruntime", "onnxscript", "scipy", "sklearn", "torch", "transformers")
AT_MODULE_LEVEL = {
    "models": ("torch",),
    "models/light.py": ("onnx", "onnxruntime"),
    "cimc/frontend": ("onnx",),
    "runtime/device": ("torch",),
    "cimc/analog": ("torch",),
    "cimc/device_run.py": ("torch",),
}


def is_within(module: str, packages: tuple[str, ...]) -> bool:
    """Is ``module`` one of ``packages`` or inside one?"""
    return any(module == package or module.startswith(f"{package}.") for package in packages)


def imports(tree: ast.AST, root: Path) -> Iterator[tuple[int, str]]:
    """Line and full module name of every import, ``from package import module`` resolved to the module."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from ((node.lineno, alias.name) for alias in node.names)
        if isinstance(node, ast.ImportFrom) and node.module:
            for alias in node.names:
                full = f"{node.module}.{alias.name}"
                path = root.joinpath(*full.split("."))
                is_module = path.is_dir() or path.with_suffix(".py").is_file()
                yield node.lineno, full if is_module else node.module


def at_module_level(node: ast.AST) -> Iterator[ast.stmt]:
    """Yield the statements under ``node`` that run on import: none in functions or for type checkers only."""
    for child in ast.iter_child_nodes(node):
        if isinstance(child, ast.FunctionDef | ast.AsyncFunctionDef):
            continue
        if isinstance(child, ast.If) and "TYPE_CHECKING" in ast.unparse(child.test):
            yield from at_module_level(ast.Module(child.orelse, []))
            continue
        if isinstance(child, ast.stmt):
            yield child
        yield from at_module_level(child)


def wrong_arrows(source: str, folder: str, root: Path) -> list[str]:
    """``line: module`` for each of our modules that ``folder`` must not import."""
    found = imports(ast.parse(source), root)
    ours = [(line, module) for line, module in found if is_within(module, ("cimc",))]
    return [f"{line}: {module}" for line, module in ours if not is_within(module, ALLOWED[folder])]


def heavy_imports(source: str, free: tuple[str, ...], root: Path) -> list[str]:
    """``line: module`` for each slow module that is imported as soon as the file is."""
    statements = [s for s in at_module_level(ast.parse(source)) if isinstance(s, ast.Import | ast.ImportFrom)]
    found = {pair for statement in statements for pair in imports(statement, root)}
    return [f"{line}: {m}" for line, m in sorted(found) if is_within(m, HEAVY) and not is_within(m, free)]


def sources() -> list[Path]:
    """Every module of the six folders, relative to the root; links are not followed."""
    files = [path for folder in FOLDERS for path in (ROOT / folder).rglob("*.py")]
    return sorted({path.resolve().relative_to(ROOT) for path in files})


@pytest.mark.parametrize("folder", FOLDERS)
def test_arrows_run_one_way(folder: str) -> None:
    """cimc -> backends -> passes -> dialects; runtime and models stand beside and know none of them."""
    wrong = {
        str(path): found
        for path in sources()
        if path.parts[0] == folder and (found := wrong_arrows((ROOT / path).read_text(), folder, ROOT))
    }
    assert not wrong


def test_slow_modules_are_imported_when_needed() -> None:
    """Nothing slow is imported by importing a module of ours."""
    wrong: dict[str, list[str]] = {}
    for path in sources():
        free = tuple(m for place, ms in AT_MODULE_LEVEL.items() if path.is_relative_to(place) for m in ms)
        if found := heavy_imports((ROOT / path).read_text(), free, ROOT):
            wrong[str(path)] = found
    assert not wrong


@pytest.mark.parametrize("module", ["cimc", "cimc.cli"])
def test_the_face_loads_nothing_slow(module: str) -> None:
    """``import cimc`` and what ``cimc --help`` imports leave every slow module unloaded, by whatever way."""
    code = f"import sys, {module}; print(*(m for m in {HEAVY!r} if m in sys.modules))"
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert result.stdout.split() == []


def test_importing_cimc_loads_only_itself() -> None:
    """The public names are loaded on first use: ``import cimc`` alone loads no module of ours but itself."""
    code = "import sys, cimc; print(*(m for m in sys.modules if m.startswith('cimc.')))"
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert result.stdout.split() == []


@pytest.mark.parametrize(
    ("folder", "line"),
    [
        ("dialects", "from cimc.passes import anything"),
        ("dialects", "import cimc.runtime.numerics"),
        ("passes", "from cimc.backends.isaac import BACKEND"),
        ("passes", "from cimc.runtime.cycle import simulate"),
        ("passes", "from cimc import compile"),
        ("backends", "def f():\n    from cimc import cli"),
        ("runtime", "from cimc import dialects"),
        ("runtime", "from cimc.passes.place import x"),
        ("models", "import cimc.dialects"),
    ],
)
def test_a_wrong_arrow_is_found(folder: str, line: str) -> None:
    """The checker sees every form of import, also inside functions."""
    assert wrong_arrows(line, folder, ROOT)


@pytest.mark.parametrize(
    ("folder", "line"),
    [
        ("dialects", "from cimc.diagnostics import CimError"),
        ("dialects", "from cimc import diagnostics"),
        ("passes", "from cimc.runtime import program"),
        ("backends", "from cimc.passes.place import x"),
        ("runtime", "import cimcology"),
        ("cimc", "from cimc import backends, runtime"),
    ],
)
def test_a_right_arrow_passes(folder: str, line: str) -> None:
    """What the architecture allows is no finding."""
    assert not wrong_arrows(line, folder, ROOT)


@pytest.mark.parametrize(
    ("source", "count"),
    [
        ("import torch", 1),
        ("from torch.nn import functional", 1),
        ("class A:\n    import scipy.optimize", 1),
        ("try:\n    import onnx, onnxruntime\nexcept ImportError:\n    pass", 2),
        ("def f():\n    import torch", 0),
        ("class A:\n    def f(self):\n        import torch", 0),
        ("if TYPE_CHECKING:\n    import torch", 0),
        ("if typing.TYPE_CHECKING:\n    import torch\nelse:\n    import scipy", 1),
        ("import onnxology", 0),
    ],
)
def test_slow_imports_are_told_from_lazy_ones(source: str, count: int) -> None:
    """Imports in functions and for type checkers cost nothing; all others do."""
    assert len(heavy_imports(source, (), ROOT)) == count
