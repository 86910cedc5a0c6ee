"""Backends are found in installed packages and in single files; a broken one stops nobody."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from xdsl.parser import Parser

from cimc.backends.loader import load_architecture
from cimc.backends.protocol import Backend
from cimc.backends.registry import BackendWarning, list_backends, load_backend, load_backend_file
from cimc.diagnostics import CimError, ExitCode, UsageError
from cimc.dialects.context import CimContext

TEMPLATE = Path(__file__).parents[2] / "backends" / "template"


@pytest.fixture(scope="module")
def installed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The template, copied and installed by pip as an outsider's package; the folder it went to."""
    folder = tmp_path_factory.mktemp("outside")
    shutil.copytree(TEMPLATE, folder / "source", ignore=shutil.ignore_patterns("__pycache__"))
    target = folder / "site"
    offline = ("--no-deps", "--no-build-isolation", "--no-index", "--quiet", "--disable-pip-version-check")
    command = (
        sys.executable,
        "-m",
        "pip",
        "install",
        *offline,
        "--target",
        str(target),
        str(folder / "source"),
    )
    subprocess.run(command, check=True, capture_output=True, timeout=120)
    return target


@pytest.fixture
def outside(installed: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """The installed package on the path for one test."""
    monkeypatch.syspath_prepend(str(installed))
    yield installed
    sys.modules.pop("my_chip", None)


def _package(folder: Path, name: str, entry: str, source: str) -> None:
    """An installed package with one module and one entry point, as pip would leave it."""
    module = name.replace("-", "_")
    (folder / f"{module}.py").write_text(source)
    info = folder / f"{module}-2.5.dist-info"
    info.mkdir()
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: 2.5\n")
    (info / "entry_points.txt").write_text(f"[cimc.backends]\n{entry} = {module}:BACKEND\n")


def _module_text(backend: Backend, name: str, text: str) -> str:
    """``text`` after the backend's passes of stage ``graph``."""
    ctx = CimContext(arch=backend.architecture())
    module = Parser(ctx, text, name).parse_module()
    for stage, extra in backend.extra_passes():
        assert stage == "graph"
        extra.apply(ctx, module)
    module.verify()
    return str(module)


RELU = """
func.func @main(%x: tensor<1x4xf32>) -> tensor<1x4xf32> {
  %y = graph.relu %x tensors ["y"] : (tensor<1x4xf32>) -> tensor<1x4xf32>
  func.return %y : tensor<1x4xf32>
}
"""

CONV = """
func.func @main(%x: tensor<1x3x32x32xf32>) -> tensor<1x8x32x32xf32> {
  %y = graph.conv %x weight <"w"> kernel <KERNEL> strides <1, 1> pads <PADS> dilations <1, 1> group 1
    tensors ["y"] : (tensor<1x3x32x32xf32>) -> tensor<1x8x32x32xf32>
  func.return %y : tensor<1x8x32x32xf32>
}
"""

GEMM = """
func.func @main(%x: tensor<1x4x!graph.quant<u8, 0.5, 0>>) -> tensor<1x2xf32> {
  %y = graph.gemm %x weight <"w"> weight_bits BITS weight_scale <"s"> acc_bits 64
    tensors ["y"] : (tensor<1x4x!graph.quant<u8, 0.5, 0>>) -> tensor<1x2xf32>
  func.return %y : tensor<1x2xf32>
}
"""


def _reason(backend: Backend, text: str) -> str | None:
    """The backend's word on the first graph operation of ``text``."""
    module = Parser(CimContext(), text).parse_module()
    return backend.legal_on_arrays(next(op for op in module.walk() if op.name.startswith("graph.")))


def test_the_machines_of_the_tree_are_registered_like_anyones() -> None:
    """The six machines come through the entry-point group, from package ``cimc``."""
    ours = {entry.name: entry for entry in list_backends() if entry.origin == "cimc"}
    assert set(ours) == {"isaac", "isaac-ce", "jain", "jia", "pimcomp", "puma"}
    assert all(entry.error == "" and entry.version and entry.description for entry in ours.values())
    assert load_backend("puma").architecture() == load_architecture("puma")


def test_a_package_outside_the_tree_is_found_with_its_yaml(outside: Path) -> None:
    """Installing the template makes ``--arch my-chip`` work, with origin and version in the list."""
    [entry] = [entry for entry in list_backends() if entry.name == "my-chip"]
    assert (entry.origin, entry.version, entry.error) == ("my-chip-cimc", "0.1.0", "")
    backend = load_backend("my-chip")
    assert sys.modules["my_chip"].__file__ == str(outside / "my_chip" / "__init__.py")
    assert backend.architecture().chip.cores == 16
    assert load_architecture("my-chip") == backend.architecture()


def test_an_outsiders_rule_and_pass_reach_the_compiler(outside: Path) -> None:
    """The template refuses large kernels with constraint and number, and turns ReLU into a clip."""
    backend = load_backend("my-chip")
    assert _reason(backend, CONV.replace("KERNEL", "7, 7").replace("PADS", "3, 3, 3, 3")) is None
    reason = _reason(backend, CONV.replace("KERNEL", "3, 9").replace("PADS", "1, 4, 1, 4"))
    assert reason == "kernel of 9 steps, the window counter of my-chip has at most 7"
    after = _module_text(backend, "relu.mlir", RELU)
    assert "graph.relu" not in after
    assert "graph.clip" in after
    assert 'tensors ["y"]' in after


def test_a_single_file_is_a_backend_too() -> None:
    """``--backend file.py`` needs no package; ``--arch file.yaml`` needs no Python."""
    backend = load_backend_file(TEMPLATE / "my_chip" / "__init__.py")
    assert backend.name == "my-chip"
    assert [stage for stage, _ in backend.extra_passes()] == ["graph"]
    assert load_architecture(TEMPLATE / "my_chip" / "__init__.py") == backend.architecture()
    assert load_architecture(TEMPLATE / "my_chip" / "my_chip.yaml") == backend.architecture()


def test_what_the_arrays_take() -> None:
    """Products with stored weights that fit side by side in a row; the reason names need and supply."""
    isaac = load_backend("isaac")
    assert _reason(isaac, CONV.replace("KERNEL", "9, 9").replace("PADS", "4, 4, 4, 4")) is None
    assert _reason(isaac, GEMM.replace("BITS", "16")) is None
    assert (
        _reason(isaac, RELU) == "graph.relu multiplies by no stored weights, which is all that crossbars do"
    )


def test_weights_wider_than_a_row_stay_off_the_arrays(tmp_path: Path) -> None:
    """16 bits in one-bit two's complement cells are 16 cells; a row of 8 takes 8-bit weights at most."""
    text = (TEMPLATE / "my_chip" / "my_chip.yaml").read_text()
    narrow = text.replace("columns: 256", "columns: 8").replace("adcs: 32", "adcs: 8")
    (tmp_path / "my_chip.yaml").write_text(narrow)
    shutil.copy(TEMPLATE / "my_chip" / "__init__.py", tmp_path / "chip.py")
    backend = load_backend_file(tmp_path / "chip.py")
    assert _reason(backend, GEMM.replace("BITS", "8")) is None
    assert (
        _reason(backend, GEMM.replace("BITS", "16"))
        == "a weight of 16 bits takes 16 cells of one row, which has 8"
    )


BROKEN = {
    "raises": ("import nowhere_at_all\n", "ModuleNotFoundError: No module named 'nowhere_at_all'"),
    "empty": ("BACKEND = object()\n", "BACKEND has no name, architecture, legal_on_arrays, extra_passes"),
    "class": ("class BACKEND: pass\n", "BACKEND is the class BACKEND; call it to make one"),
    "renamed": (
        "from cimc.backends.isaac import BACKEND\n",
        "calls itself 'isaac'; make the entry point's name and the YAML's name equal",
    ),
    "no-yaml": (
        "from pathlib import Path\nfrom cimc.backends.protocol import BaseBackend\n"
        "BACKEND = BaseBackend(Path('nowhere.yaml'))\n",
        "nowhere.yaml: cannot read the file",
    ),
}


@pytest.mark.parametrize("name", BROKEN)
def test_a_broken_plug_in_warns_and_stops_nobody(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is listed with its error; others load; asking for it is a usage error that says what is wrong."""
    source, said = BROKEN[name]
    _package(tmp_path, f"plug-in-{name}", name, source)
    monkeypatch.syspath_prepend(str(tmp_path))
    with pytest.warns(BackendWarning, match=f"backend '{name}' of plug-in-{name} 2.5 cannot be used"):
        entries = {entry.name: entry for entry in list_backends()}
    assert said in entries[name].error
    assert entries["isaac"].error == ""
    assert load_architecture("isaac").name == "isaac"
    with pytest.raises(CimError) as caught:
        load_backend(name)
    assert caught.value.exit_code == ExitCode.USAGE
    assert said in str(caught.value)


def test_a_name_registered_twice_is_an_error_only_for_that_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Neither of two packages wins silently; other names are not affected."""
    _package(tmp_path, "impostor", "isaac", "from cimc.backends.isaac import BACKEND\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    with pytest.warns(BackendWarning, match="2 entry points have this name"):
        assert [entry.error != "" for entry in list_backends() if entry.name == "isaac"] == [True, True]
    with pytest.raises(
        UsageError, match=r"'isaac' is registered 2 times, by .*(cimc|impostor).* and .*uninstall"
    ):
        load_backend("isaac")
    assert load_backend("puma").name == "puma"


def test_the_warning_comes_once_and_on_the_error_stream(tmp_path: Path) -> None:
    """Three lists in one process print one warning; standard output stays parseable."""
    _package(tmp_path, "plug-in-raises", "raises", BROKEN["raises"][0])
    code = (
        "from cimc.backends.registry import list_backends as f\nfor _ in '123': n = len(f())\nprint(n)\nf()"
    )
    environment = {**os.environ, "PYTHONPATH": str(tmp_path)}
    done = subprocess.run(
        [sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True, timeout=60
    )
    assert done.stdout.strip() == "7"
    assert done.stderr.count("BackendWarning") == 2  # the message, and the line of source that shows below it
    assert done.stderr.count("nowhere_at_all") == 1


def test_an_unknown_name_suggests_a_known_one() -> None:
    """The nearest name, or all of them; and how to give a file."""
    with pytest.raises(UsageError, match=r"no backend is named 'isac'; did you mean 'isaac'\?"):
        load_architecture("isac")
    with pytest.raises(UsageError, match="known: isaac, isaac-ce, jain, jia, pimcomp, puma"):
        load_architecture("qqqq")


@pytest.mark.parametrize(
    ("source", "said"),
    [
        ("x = 1\ny = (\n", "chip.py:2: the file fails: SyntaxError"),
        ("x = 1\n\ny = x / 0\n", "chip.py:3: the file fails: ZeroDivisionError"),
        ("x = 1\n", "chip.py: defines no BACKEND"),
        ("BACKEND = 3\n", "chip.py: BACKEND has no name, architecture"),
        (
            "from cimc.backends.isaac import BACKEND as b\nclass B(type(b)):\n  def extra_passes(self):\n"
            "    return (('grpah', None),)\nBACKEND = B(b.yaml)\n",
            "extra_passes names stage 'grpah'; stages are graph, quantise, schedule, place, lower",
        ),
        (
            "from cimc.backends.isaac import BACKEND as b\nclass B(type(b)):\n  def extra_passes(self):\n"
            "    return 1 / 0\nBACKEND = B(b.yaml)\n",
            "BACKEND fails: ZeroDivisionError",
        ),
    ],
    ids=["syntax", "raises", "nothing", "number", "stage", "method"],
)
def test_a_file_that_is_no_backend_is_refused(source: str, said: str, tmp_path: Path) -> None:
    """File, line where there is one, and what is wrong; exit code 2."""
    file = tmp_path / "chip.py"
    file.write_text(source)
    with pytest.raises(UsageError) as caught:
        load_backend_file(file)
    assert said in str(caught.value)


def test_the_line_of_a_file_given_by_a_relative_path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The failing line is named however the file is: tracebacks hold absolute paths."""
    (tmp_path / "chip.py").write_text("first = 1\nsecond = 2\nBACKEND = first / 0\n")
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UsageError, match=r"^chip\.py:3: .*ZeroDivisionError"):
        load_backend_file(Path("chip.py"))


def test_an_absent_file_is_refused(tmp_path: Path) -> None:
    """The path stands in the message."""
    with pytest.raises(UsageError, match=r"nowhere\.py: no such file"):
        load_architecture(tmp_path / "nowhere.py")
