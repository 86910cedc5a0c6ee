"""What a verification found, as data and as text."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from typing import Any, Literal

Verdict = Literal["equal", "within", "distance", "differs", "fails"]
"""Every integer equal; within the stated tolerance; not comparable exactly, distance stated; beyond; not executable."""


@dataclass(frozen=True)
class Check:
    """One comparison: what a pass left against what it must still mean."""

    after: str
    """Name of the pass; ``import`` or ``program``."""
    level: str
    against: str
    tensors: int
    """Tensors compared."""
    worst: float
    """Largest error, in the unit ``against`` states."""
    worst_tensor: str
    verdict: Verdict
    operation: str = ""
    """The first operation, in the order of the program, that diverges."""
    location: str = ""
    message: str = ""

    @property
    def ok(self) -> bool:
        """Whether nothing is wrong."""
        return self.verdict in ("equal", "within", "distance")

    def line(self) -> str:
        """One line of the report."""
        worst = f"worst {self.worst:.3g}" + (f" at '{self.worst_tensor}'" if self.worst_tensor else "")
        head = f"{self.after:<24} {self.level:<10} {self.verdict:<9} {self.tensors:>4} tensors  {worst:<40}"
        return f"{head} against {self.against}"


@dataclass(frozen=True)
class TensorError:
    """How far level 2 is from the float model in one tensor, over all frames."""

    tensor: str
    relative_error: float
    """``|level 2 - float| / |float|``, Euclidean."""
    sqnr_db: float
    """``-20 log10`` of the relative error."""


@dataclass(frozen=True)
class VerifyReport:
    """All checks in order, and what level 2 costs in accuracy."""

    machine: str
    frames: int
    checks: tuple[Check, ...]
    quantisation: tuple[TensorError, ...] = ()
    top1_agreement: float | None = None
    """Share of frames whose first output has its largest value at the same place as in float."""
    array_macs: int = 0
    total_macs: int = 0
    host_operators: tuple[str, ...] = ()
    warnings: tuple[str, ...] = field(default=())

    @property
    def ok(self) -> bool:
        """Whether every check passed."""
        return all(check.ok for check in self.checks)

    @property
    def first_failure(self) -> Check | None:
        """The first check that did not pass: its pass is the one to look at."""
        return next((check for check in self.checks if not check.ok), None)

    @property
    def host_share(self) -> float:
        """Share of the multiply-accumulates with static weights that the arrays did not do."""
        return 1.0 - self.array_macs / self.total_macs if self.total_macs else 0.0

    def to_dict(self) -> dict[str, Any]:
        """The report as plain JSON."""
        return {
            "ok": self.ok,
            "machine": self.machine,
            "frames": self.frames,
            "checks": [asdict(check) | {"ok": check.ok} for check in self.checks],
            "quantisation": [asdict(error) for error in self.quantisation],
            "top1_agreement": self.top1_agreement,
            "array_macs": self.array_macs,
            "total_macs": self.total_macs,
            "host_share": self.host_share,
            "host_operators": list(self.host_operators),
            "warnings": list(self.warnings),
        }

    def text(self) -> str:
        """The report as lines for a terminal."""
        lines = [f"verify on {self.machine}, {self.frames} frames"]
        lines += [check.line() for check in self.checks]
        if self.quantisation:
            worst = max(self.quantisation, key=lambda e: e.relative_error)
            last = self.quantisation[-1]
            lines.append(
                f"quantisation: relative error {last.relative_error:.4g} ({last.sqnr_db:.1f} dB) at '{last.tensor}', "
                f"largest {worst.relative_error:.4g} at '{worst.tensor}'"
            )
        if self.top1_agreement is not None:
            lines.append(f"top-1 agreement with float: {100 * self.top1_agreement:.1f} %")
        if self.total_macs and self.array_macs:
            lines.append(
                f"array MACs {self.array_macs} of {self.total_macs} ({100 * (1 - self.host_share):.2f} %), "
                f"host operators: {', '.join(self.host_operators) or 'none'}"
            )
        lines += [f"warning: {warning}" for warning in self.warnings]
        failure = self.first_failure
        if failure is None:
            return "\n".join([*lines, "ok: every level means the same"])
        at = failure.location or failure.operation or "the program"
        return "\n".join([*lines, f"FAILED after {failure.after} at {at}: {failure.message}"])
