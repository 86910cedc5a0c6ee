"""The device simulator's crossbar product on one CPU thread, as ratios to an int8 GEMM and to the naive sliced loop.

    python -m tools.bench_device [--repeats 9] [--chunk-mib 8]

8-bit weights and inputs, 2-bit cells and input digits, 128 x 128 arrays; ``adc8`` is a full-range 8-bit converter per
row group and digit pair, noise is 5 % of the conductance. Times are CPU time of this thread, the least of all repeats,
and every line is measured in the same run. Memory is the largest resident size above the start of a pass whose cells
are made, in a process of its own for each setting; more than cells and chunk budget is an error.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass

os.environ["OMP_NUM_THREADS"] = "1"

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from cimc.runtime.crossbar.coding import Coding
from cimc.runtime.device.explain import explain
from cimc.runtime.device.loader import parse_device
from cimc.runtime.device.prepared import Prepared, prepare
from cimc.runtime.device.product import read
from cimc.runtime.device.recipe import Chip, Recipe
from cimc.runtime.device.streaming.memory import (
    peak_resident_bytes,
    release_free_memory,
    reset_peak,
    resident_bytes,
)
from tools.bench_streaming import ALLOCATOR

ROWS = 128
DIGITS = range(0, 8, 2)
STEP = -(-128 * 9 * 512 // 511)
"""h of the full range of 128 rows of 2 x 2 bits, 0 … 1152, on 255 codes: just above 4.5 * 2^8."""
NOISE = {
    "adc8": "",
    "frozen": "read_noise: {gaussian: {relative: 0.05}}\nread_scope: frozen",
    "noise": "read_noise: {gaussian: {relative: 0.05}}\nread_scope: read",
}
CASES = {"lossless": ("", 1, 1023, 0), **{name: (extra, STEP, 255, 8) for name, extra in NOISE.items()}}
"""Device, h, top code and fractional bits. Ten bits do not cover 1152, the worst sum of 128 rows: that nothing is lost
follows from the stored cells."""
MIB = 1 << 20


@dataclass(frozen=True)
class Problem:
    """A product: codes uint8, weights int8 (K, N), and how many windows are gathered at once."""

    name: str
    codes: Tensor
    weights: Tensor
    kernel: int

    @property
    def windows(self) -> int:
        """M of the product."""
        if not self.kernel:
            return len(self.codes)
        return self.codes.shape[0] * self.codes.shape[2] * self.codes.shape[3]

    def blocks(self, chunk_bytes: int) -> Iterator[tuple[int, Tensor]]:
        """First window and codes (M', K) of blocks whose gathered codes take a sixteenth of the budget."""
        if not self.kernel:
            yield 0, self.codes
            return
        images, channels, height, width = self.codes.shape
        reach = self.kernel // 2
        lines = max(1, chunk_bytes // (16 * width * channels * self.kernel**2))
        for image in range(images):
            padded = functional.pad(self.codes[image], (reach,) * 4)
            patches = padded.unfold(1, self.kernel, 1).unfold(2, self.kernel, 1)
            for line in range(0, height, lines):
                part = patches[:, line : line + lines].permute(1, 2, 0, 3, 4)
                yield (image * height + line) * width, part.reshape(-1, channels * self.kernel**2)


def problems() -> list[Problem]:
    """Gaussian weights and half-Gaussian codes, seeded."""
    torch.manual_seed(0)

    def weights(rows: int, columns: int) -> Tensor:
        return torch.clamp(torch.round(torch.randn(rows, columns) * 40), -127, 127).to(torch.int8)

    def codes(*shape: int) -> Tensor:
        return torch.clamp(torch.round(torch.randn(shape).abs() * 70), 0, 255).to(torch.uint8)

    return [
        Problem("Linear 64 x 1024 x 1024", codes(64, 1024), weights(1024, 1024), 0),
        Problem("Conv 64 -> 64, 3 x 3 on 8 x 64 x 32 x 32", codes(8, 64, 32, 32), weights(576, 64), 3),
    ]


def recipe_of(problem: Problem, case: str) -> Recipe:
    """The problem in one of :data:`CASES` on 128 x 128 arrays, 2-bit cells, 2-bit digits."""
    extra, h, top_code, frac_bits = CASES[case]
    text = "name: bench\ndescription: bench\nprovenance: ours\ncell: {g_off_us: 0.0, g_on_us: 3.0}\n" + extra
    rows = len(problem.weights)
    segments = tuple((min(ROWS, rows - first), 0) for first in range(0, rows, ROWS))
    coding = Coding(cell_bits=2, dac_bits=2, parallel_rows=ROWS, converter_hi=top_code, frac_bits=frac_bits)
    return Recipe(1, coding, segments, parse_device(text, "bench"), Chip(1), h=h)


def fake_quant(problem: Problem) -> Tensor:
    """The reference of the ratios: codes times weights in one float GEMM (int64 of the result's integers)."""
    weights = problem.weights.to(torch.float32)
    if not problem.kernel:
        return problem.codes.to(torch.float32) @ weights
    columns = functional.unfold(problem.codes.to(torch.float32), problem.kernel, padding=problem.kernel // 2)
    return columns.transpose(1, 2).reshape(-1, len(weights)) @ weights


def sliced(problem: Problem) -> list[Tensor]:
    """Digits of the stored weights, float32: made before the loop runs, as cells are."""
    stored = problem.weights.to(torch.int32) + 128
    return [((stored >> j) & 3).to(torch.float32) for j in DIGITS]


def naive(problem: Problem, planes: list[Tensor]) -> Tensor:
    """The sliced loop everybody writes: a GEMM per (tile, input digit, weight digit), then the converter, then add."""
    if problem.kernel:
        x = functional.unfold(problem.codes.to(torch.float32), problem.kernel, padding=problem.kernel // 2)
        x = x.transpose(1, 2).reshape(-1, len(problem.weights)).to(torch.int32)
    else:
        x = problem.codes.to(torch.int32)
    total = torch.zeros(problem.windows, problem.weights.shape[1])
    step = STEP / 256
    for first in range(0, len(problem.weights), ROWS):
        rows = slice(first, first + ROWS)
        for i in DIGITS:
            digits = ((x[:, rows] >> i) & 3).to(torch.float32)
            for j, plane in zip(DIGITS, planes, strict=True):
                partial = digits @ plane[rows]
                code = torch.clamp(torch.floor(partial / step + 0.5), 0, 255)
                total += code * (step * 2.0 ** (i + j))
    return total - 128 * x.sum(dim=1, keepdim=True)


def simulate(recipe: Recipe, prepared: Prepared, problem: Problem, chunk_bytes: int, out: Tensor) -> Tensor:
    """Reads of all windows, block by block, into ``out`` float32 (M, N)."""
    unit = 2.0**-recipe.frac_bits
    for first, codes in problem.blocks(chunk_bytes):
        found = read(recipe, prepared, codes, first, chunk_bytes // 4)
        out[first : first + len(codes)] = found.to(torch.float32) * unit
    return out


def cpu_ms(work: Callable[[], object], repeats: int) -> float:
    """Least CPU time of this thread over the repeats, after one that is not counted."""
    work()
    times: list[float] = []
    for _ in range(repeats):
        start = time.thread_time()
        work()
        times.append(time.thread_time() - start)
    return min(times) * 1e3


def peak_mib(at: int, case: str, chunk_mib: float) -> float:
    """:func:`own_peak_mib` of a case of problem ``at``, in a process of its own: what others freed is not its room.

    Raises :class:`RuntimeError` with the process's output when it fails.
    """
    command = [sys.executable, "-m", "tools.bench_device", "--chunk-mib", str(chunk_mib)]
    done = subprocess.run(
        [*command, "--peak-of", str(at), case],
        capture_output=True,
        text=True,
        env={**os.environ, **ALLOCATOR},
        check=False,
    )
    if done.returncode:
        raise RuntimeError(f"{case} failed:\n{done.stderr}")
    return float(done.stdout)


def own_peak_mib(work: Callable[[], object]) -> float:
    """Largest resident size of this process during ``work`` above the size before it (Linux)."""
    work()  # libraries are loaded and kernels compiled
    release_free_memory()
    reset_peak()
    before = resident_bytes()
    work()
    return (peak_resident_bytes() - before) / MIB


def conversions(recipe: Recipe, prepared: Prepared, windows: int) -> int:
    """Conversions that a run simulates: one per (group, phase, conversion, column, window) that did not collapse."""
    pairs = sum(len(part.kept) for part in prepared.converted)
    return pairs * recipe.coding.digit_cycles * prepared.columns * windows


def measure(at: int, problem: Problem, chunk_mib: float, repeats: int) -> None:
    """Print every figure of problem ``at``. Raises :class:`SystemExit` for wrong results or too much memory."""
    print(f"\n{problem.name}, chunk budget {chunk_mib:g} MiB")
    exact, planes = fake_quant(problem), sliced(problem)
    gemm = cpu_ms(lambda: fake_quant(problem), repeats)
    loop = cpu_ms(lambda: naive(problem, planes), repeats)
    print(f"  int8 fake quantised, 1 GEMM   {gemm:8.1f} ms")
    print(f"  naive sliced loop, adc8       {loop:8.1f} ms")
    adc = 0.0
    out = torch.zeros(problem.windows, problem.weights.shape[1])
    for name in CASES:
        recipe = recipe_of(problem, name)
        prepared = prepare(recipe, problem.weights)

        def work(r: Recipe = recipe, p: Prepared = prepared) -> Tensor:
            return simulate(r, p, problem, int(chunk_mib * MIB), out)

        took, peak, cells = cpu_ms(work, repeats), peak_mib(at, name, chunk_mib), prepared.size_bytes / MIB
        adc = took if name == "adc8" else adc
        ratio = f"{took / gemm:.2f} x GEMM" if name == "lossless" else f"{took / adc:.2f} x adc8"
        ratio = f"{took / loop:.2f} x naive" if name == "adc8" else ratio
        error = float((work() - exact).norm() / exact.norm())
        print(
            f"  {name:9} {took:8.1f} ms  {ratio:14} peak {peak:5.1f} MiB above start, cells {cells:.1f} MiB, "
            f"{conversions(recipe, prepared, problem.windows)} conversions, error {error:.4f}"
        )
        for line in explain(recipe, prepared):
            print(f"            {line}")
        if name == "lossless" and not torch.equal(out, exact):
            raise SystemExit("the lossless product differs from the GEMM")
        if name == "adc8" and not np.allclose(out, naive(problem, planes), rtol=1e-3, atol=1e3):
            raise SystemExit("adc8 differs from the naive loop")
        if peak > cells + chunk_mib:
            raise SystemExit(f"{name} took {peak:.1f} MiB, more than its cells and the chunk budget")


def main() -> None:
    """Print every figure of both problems."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--repeats", type=int, default=9)
    parser.add_argument("--chunk-mib", type=float, default=8.0)
    parser.add_argument("--peak-of", nargs=2, help=argparse.SUPPRESS)
    options = parser.parse_args()
    torch.set_num_threads(1)
    if options.peak_of is None:
        for at, problem in enumerate(problems()):
            measure(at, problem, options.chunk_mib, options.repeats)
        return
    at, case = options.peak_of
    problem = problems()[int(at)]
    recipe = recipe_of(problem, case)
    prepared = prepare(recipe, problem.weights)
    out = torch.zeros(problem.windows, problem.weights.shape[1])
    print(own_peak_mib(lambda: simulate(recipe, prepared, problem, int(options.chunk_mib * MIB), out)))


if __name__ == "__main__":
    main()
