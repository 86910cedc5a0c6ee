"""The root folders are one package: links in ``cimc/``, one name for each module, nothing left out."""

from __future__ import annotations

import subprocess
import sys
import tomllib
from importlib import import_module
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
LINKED = ("backends", "dialects", "models", "passes", "runtime")
# Projects of their own, to be copied by users: in the tree and the sdist, not in the installed package.
TEMPLATES = ("backends/template",)
REPAIR = (
    "links were lost when the tree was copied or unpacked; repair: "
    "git config core.symlinks true && git checkout -- cimc (or: ln -s ../{name} cimc/{name})"
)


def is_template(path: Path) -> bool:
    """Does ``path``, relative to the root, belong to a project of its own?"""
    return any(path.is_relative_to(template) for template in TEMPLATES)


@pytest.mark.parametrize("name", LINKED)
def test_links_lead_to_the_root_folders(name: str) -> None:
    """``cimc/<name>`` is a relative link to the real folder ``<name>``."""
    link = ROOT / "cimc" / name
    assert link.is_symlink(), REPAIR.format(name=name)
    assert link.is_dir(), REPAIR.format(name=name)
    assert link.readlink() == Path("..", name), f"cimc/{name} must be a relative link to ../{name}"
    assert not (ROOT / name).is_symlink()


@pytest.mark.parametrize("name", LINKED)
def test_a_folder_has_one_name_only(name: str) -> None:
    """From the root, ``import dialects`` would load every class twice: it fails and says what to import."""
    result = subprocess.run(
        [sys.executable, "-c", f"import {name}"], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert result.returncode == 1
    assert f"ImportError: import cimc.{name}, not {name}" in result.stderr


@pytest.mark.parametrize("name", LINKED)
def test_the_package_is_imported_from_this_tree(name: str) -> None:
    """The tests test this checkout, not some installed copy."""
    file = import_module(f"cimc.{name}").__file__
    assert file is not None
    assert Path(file).resolve() == ROOT / name / "__init__.py"


def test_every_folder_with_modules_is_a_package() -> None:
    """A folder without ``__init__.py`` works in the checkout and is silently absent from the wheel."""
    modules = [path for name in ("cimc", *LINKED) for path in (ROOT / name).rglob("*.py")]
    inside = [path.resolve().relative_to(ROOT) for path in modules]
    folders = {parent for path in inside if not is_template(path) for parent in path.parents[:-1]}
    assert {Path("cimc"), *map(Path, LINKED)} <= folders
    assert not [str(folder) for folder in sorted(folders) if not (ROOT / folder / "__init__.py").is_file()]


def test_every_data_file_goes_into_the_wheel() -> None:
    """Files other than modules are named by ``tool.setuptools.package-data``, or users will not have them."""
    packaged = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["setuptools"]["package-data"]
    taken = {
        path.resolve()
        for package, patterns in packaged.items()
        for pattern in patterns
        for path in ROOT.joinpath(*package.split(".")).glob(pattern)
    }
    assert ROOT / "cimc" / "py.typed" in taken
    tracked = subprocess.run(
        ["git", "ls-files", "-z", "--", "cimc", *LINKED],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    if tracked.returncode:
        pytest.skip("not a git checkout: what belongs to the tree is not known")
    files = [ROOT / name for name in tracked.stdout.split("\0") if name and not name.endswith(".py")]
    data = [path for path in files if path.is_file() and not path.is_symlink()]
    missing = [path.relative_to(ROOT) for path in data if path.resolve() not in taken]
    assert not [str(path) for path in missing if not is_template(path)]
