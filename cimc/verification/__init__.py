"""``cimc verify``: after every pass, is what the compiler holds still the model? (docs/verification.md)."""

from __future__ import annotations

from cimc.verification.report import Check, TensorError, VerifyReport
from cimc.verification.session import verify, verify_static

__all__ = ["Check", "TensorError", "VerifyReport", "verify", "verify_static"]
