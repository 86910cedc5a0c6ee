"""What memory was promised and what other budgets would give, as numbers and as text."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from cimc.analog.plan import Plan
from cimc.diagnostics import DoesNotFitError
from cimc.runtime.device.streaming.placement import Placement, Policy, place

MB = 1e6


@dataclass(frozen=True)
class MemoryReport:
    """Memory of one converted module, in bytes; ``str`` is a table."""

    policy: Policy
    budget_bytes: int | None
    predicted_peak_bytes: int
    base_bytes: int
    resident_bytes: int
    pool_bytes: int
    work_bytes: int
    """Live values and workspace of the block that needs most."""
    accounted_peak_bytes: int
    """Largest that the run has taken of the prediction so far, without live values and workspace of reads."""
    streamed_blocks: int
    blocks: int
    streamed_bytes: int
    """Per pass."""
    slots: int
    predicted_ns: float
    waiting_ns: float
    exact: bool
    complete: bool
    digital: Mapping[str, str]
    converters: Sequence[str]

    def __str__(self) -> str:
        budget = "none" if self.budget_bytes is None else f"{self.budget_bytes / MB:.1f} MB"
        lines = [
            f"streaming          {self.policy}, budget {budget}",
            f"predicted peak     {self.predicted_peak_bytes / MB:.1f} MB"
            + ("" if self.complete else ", live values of the network not counted (no trace)"),
            f"  digital          {self.base_bytes / MB:.1f} MB",
            f"  resident         {self.resident_bytes / MB:.1f} MB in {self.blocks - self.streamed_blocks} blocks",
            f"  pool             {self.pool_bytes / MB:.1f} MB in {self.slots} slots",
            f"  in use           {self.work_bytes / MB:.1f} MB",
            f"streamed a pass    {self.streamed_bytes / MB:.1f} MB in {self.streamed_blocks} blocks",
            f"predicted pass     {self.predicted_ns / 1e6:.1f} ms, {self.waiting_ns / 1e6:.1f} ms of it waiting",
            f"placement          {'proven best' if self.exact else 'best found'}",
        ]
        lines += [f"converters         {text}" for text in self.converters]
        lines += [f"digital            {name}: {why}" for name, why in self.digital.items()]
        return "\n".join(lines)


@dataclass(frozen=True)
class Row:
    """One budget; ``placement`` is None where nothing fits, and ``reason`` says why."""

    budget_gb: float
    policy: str
    placement: Placement | None
    reason: str


@dataclass(frozen=True)
class WhatIf:
    """Budgets and what they give; ``str`` is the table."""

    rows: tuple[Row, ...]

    def __str__(self) -> str:
        lines = [f"{'budget GB':>10}  {'policy':<12} {'streamed MB':>12} {'peak MB':>9} {'pass ms':>10}"]
        for row in self.rows:
            found = row.placement
            if found is None:
                lines.append(f"{row.budget_gb:>10.3f}  {row.policy:<12} {row.reason}")
                continue
            lines.append(
                f"{row.budget_gb:>10.3f}  {row.policy:<12} {found.streamed_bytes / MB:>12.1f} "
                f"{found.peak_bytes / MB:>9.1f} {found.time.total_ns / 1e6:>10.1f}"
            )
        return "\n".join(lines)


def memory_report(
    plan: Plan,
    placement: Placement,
    policy: Policy,
    budget_bytes: int | None,
    accounted_peak_bytes: int,
    digital: Mapping[str, str],
    converters: Sequence[str],
) -> MemoryReport:
    """The parts of ``placement``'s predicted peak."""
    problem = plan.problem
    resident = sum(b.resident_bytes for i, b in enumerate(problem.blocks) if i not in placement.streamed)
    pool = placement.slots * max((problem.blocks[i].code_bytes for i in placement.streamed), default=0)
    return MemoryReport(
        policy=policy,
        budget_bytes=budget_bytes,
        predicted_peak_bytes=placement.peak_bytes,
        base_bytes=problem.base_bytes,
        resident_bytes=resident,
        pool_bytes=pool,
        work_bytes=placement.peak_bytes - problem.base_bytes - resident - pool,
        accounted_peak_bytes=accounted_peak_bytes,
        streamed_blocks=len(placement.streamed),
        blocks=len(problem.blocks),
        streamed_bytes=placement.streamed_bytes,
        slots=placement.slots,
        predicted_ns=placement.time.total_ns,
        waiting_ns=placement.time.waiting_ns,
        exact=placement.exact,
        complete=plan.complete,
        digital=digital,
        converters=converters,
    )


def what_if_table(plan: Plan, budgets_gb: Sequence[float], depth: int | None) -> WhatIf:
    """Both policies at each budget."""
    rows: list[Row] = []
    policies: tuple[Policy, ...] = ("auto_speed", "auto_memory")
    for budget in budgets_gb:
        for policy in policies:
            try:
                found = place(plan.problem, policy, int(budget * 1e9), depth)
            except DoesNotFitError as error:
                rows.append(Row(budget, str(policy), None, error.message))
                continue
            rows.append(Row(budget, str(policy), found, ""))
    return WhatIf(tuple(rows))
