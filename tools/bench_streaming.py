"""Streaming under memory budgets: peak of resident size against the prediction, bits against the resident run.

    python -m tools.bench_streaming                          # DeiT-tiny with PCM cells, some minutes
    python -m tools.bench_streaming --model qwen3-0.6b --arch puma --device ideal --resident codes --chunk 8388608

Every run is a process of its own, so that its resident size above its own start is its own. The first run keeps
everything in memory; its peak is the resident need, and the others have shares of it as their budget.
"""

from __future__ import annotations

import argparse
import gc
import hashlib
import json
import os
import subprocess
import sys
import time
from dataclasses import asdict, dataclass, replace

import torch
from torch import Tensor, nn

import cimc.analog
from cimc.analog.plan import Resident
from cimc.analog.ranges import call
from cimc.models.drawn_weights import DrawnWeights
from cimc.models.qwen3 import QWEN3_0_6B, Qwen3Shape, qwen3_on_meta
from cimc.models.resnet import resnet_50
from cimc.models.synthetic import images
from cimc.models.transformers import NETWORKS
from cimc.runtime.device.streaming.memory import (
    peak_resident_bytes,
    release_free_memory,
    reset_peak,
    resident_bytes,
)
from cimc.runtime.device.streaming.placement import Policy

MODELS = ("qwen3-tiny", "deit-tiny", "resnet-50", "qwen3-0.6b")
TINY = Qwen3Shape(4096, 256, 4, 4, 2, 64, 768, True)
ALLOCATOR = {
    # Freed tensors go back to the system at once; otherwise the allocator's own reserve is measured.
    "MALLOC_MMAP_THRESHOLD_": "65536",
    "MALLOC_TRIM_THRESHOLD_": "65536",
    "MALLOC_ARENA_MAX": "1",
    "OMP_NUM_THREADS": "1",
}


@dataclass(frozen=True)
class Job:
    """One process."""

    model: str
    arch: str
    device: str
    policy: str
    budget_bytes: int | None
    resident: Resident
    tokens: int
    chunk_bytes: int


@dataclass(frozen=True)
class Result:
    """What a process found."""

    predicted_bytes: int
    peak_bytes: int
    convert_peak_bytes: int
    streamed_blocks: int
    blocks: int
    streamed_bytes: int
    predicted_s: float
    pass_s: float
    sha256: str


def build(model: str, tokens: int) -> tuple[nn.Module, Tensor]:
    """A network with random weights, on ``meta`` where it is large, and its input."""
    torch.manual_seed(0)
    if model == "resnet-50":
        return resnet_50().eval(), torch.from_numpy(images(1, (3, 224, 224), 5))
    if model == "deit-tiny":
        kind, size = NETWORKS[model]
        return kind(size).eval(), torch.from_numpy(images(1, (3, 224, 224), 5))
    shape = TINY if model == "qwen3-tiny" else QWEN3_0_6B
    ids = torch.randint(0, shape.vocabulary, (1, tokens), generator=torch.Generator().manual_seed(3))
    return qwen3_on_meta(shape), ids


def policy_of(word: str) -> Policy:
    """``False`` and ``True`` as booleans."""
    words: dict[str, Policy] = {"False": False, "True": True, "auto_memory": "auto_memory"}
    return words.get(word, "auto_speed")


def warm_up(job: Job) -> None:
    """Load every library and compile what numba compiles, on networks of no size."""
    small = nn.Sequential(nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.GELU(), nn.MaxPool2d(2), nn.Flatten())
    words, ids = build("qwen3-tiny", 4)
    image = torch.randn(1, 3, 8, 8)
    for module, x in ((small.eval(), image), (words, ids)):
        cimc.analog.convert(
            module, job.arch, job.device, streaming=True, resident=job.resident, weights=DrawnWeights(0)
        )
        with torch.no_grad():
            module(x)
    build("deit-tiny", 4)[0](torch.randn(1, 3, 224, 224))


def run_job(job: Job) -> Result:
    """Convert, plan, run one pass; peaks are above the resident size after :func:`warm_up`."""
    warm_up(job)
    gc.collect()
    release_free_memory()
    start = resident_bytes()
    reset_peak()
    module, x = build(job.model, job.tokens)
    module = cimc.analog.convert(
        module,
        job.arch,
        job.device,
        streaming=policy_of(job.policy),
        budget_bytes=job.budget_bytes,
        inference_chunk_size=job.chunk_bytes,
        resident=job.resident,
        weights=DrawnWeights(0),
    )
    convert_peak = peak_resident_bytes() - start
    reset_peak()
    run = cimc.analog.run_of(module)
    placement = run.prepare_for((x,))
    began = time.perf_counter()
    with torch.no_grad():
        result = call(module, x)
    seconds = time.perf_counter() - began
    return Result(
        placement.peak_bytes,
        peak_resident_bytes() - start,
        convert_peak,
        len(placement.streamed),
        len(run.blocks),
        placement.streamed_bytes,
        placement.time.total_ns / 1e9,
        seconds,
        hashlib.sha256(result.contiguous().numpy().tobytes()).hexdigest(),
    )


def in_process(job: Job) -> Result:
    """Run a job in a process of its own. Raises :class:`RuntimeError` with its output when it fails."""
    command = [sys.executable, "-m", "tools.bench_streaming", "--job", json.dumps(asdict(job))]
    done = subprocess.run(
        command, capture_output=True, text=True, env={**os.environ, **ALLOCATOR}, check=False
    )
    if done.returncode != 0:
        raise RuntimeError(f"{job} failed:\n{done.stderr}")
    return Result(**json.loads(done.stdout.splitlines()[-1]))


def line(name: str, budget: int | None, result: Result, reference: Result) -> str:
    """One row of the table."""
    over = result.predicted_bytes / max(1, result.peak_bytes) - 1
    same = "same" if result.sha256 == reference.sha256 else "DIFFER"
    shown = "-" if budget is None else f"{budget / 1e6:.1f}"
    return (
        f"{name:<12} {shown:>9} {result.predicted_bytes / 1e6:>12.1f} {result.peak_bytes / 1e6:>9.1f} {over:>+8.1%} "
        f"{result.streamed_blocks:>5}/{result.blocks:<5} {result.streamed_bytes / 1e6:>9.1f} "
        f"{result.predicted_s:>8.2f} {result.pass_s:>8.2f}  {same}"
    )


def main() -> int:
    """Print the table; exit code 1 when bits differ, a budget or a prediction is exceeded."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--model", choices=MODELS, default="deit-tiny")
    parser.add_argument("--arch", default="isaac")
    parser.add_argument("--device", default="pcm")
    parser.add_argument("--resident", choices=("cells", "codes"), default="cells")
    parser.add_argument("--tokens", type=int, default=16, help="of a language model")
    parser.add_argument("--chunk", type=int, default=1 << 20, help="inference_chunk_size in bytes")
    parser.add_argument("--shares", type=float, nargs="+", default=[0.25, 0.4, 0.7])
    parser.add_argument("--job", help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.job:
        print(json.dumps(asdict(run_job(Job(**json.loads(given.job))))))
        return 0
    whole = Job(
        given.model, given.arch, given.device, "False", None, given.resident, given.tokens, given.chunk
    )
    print(
        f"{given.model} on {given.arch} with {given.device} cells, resident {given.resident}; MB of 10^6, seconds"
    )
    print(
        "policy          budget    predicted      peak     over  streamed   MB a pass predicted  measured  bits"
    )
    reference = in_process(whole)
    print(line("resident", None, reference, reference), flush=True)
    failed = reference.peak_bytes > reference.predicted_bytes
    jobs = [("auto_speed", int(reference.peak_bytes * share)) for share in given.shares]
    jobs.append(("auto_memory", jobs[0][1]))
    for policy, budget in jobs:
        job = replace(whole, policy=policy, budget_bytes=budget)
        result = in_process(job)
        print(line(policy, budget, result, reference), flush=True)
        failed |= result.sha256 != reference.sha256 or result.peak_bytes > min(budget, result.predicted_bytes)
    return int(failed)


if __name__ == "__main__":
    sys.exit(main())
