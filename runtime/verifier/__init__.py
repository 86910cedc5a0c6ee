"""The program verifier: shows without input data that a program can run.

What it checks is in ``docs/isa.md``, "What the verifier checks".
"""

from cimc.runtime.verifier.depths import ring_depths
from cimc.runtime.verifier.findings import RULES, Finding
from cimc.runtime.verifier.verify import check_program, verify_program

__all__ = ["RULES", "Finding", "check_program", "ring_depths", "verify_program"]
