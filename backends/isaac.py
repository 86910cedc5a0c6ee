"""The ISAAC-like reference machine of CIM-MLC; its numbers and their sources stand in ``isaac.yaml``."""

from __future__ import annotations

from pathlib import Path

from cimc.backends.protocol import BaseBackend

BACKEND = BaseBackend(Path(__file__).with_name("isaac.yaml"))
