"""A small wordline-mode SRAM macro after Jain et al.; its numbers and their sources stand in ``jain.yaml``."""

from __future__ import annotations

from pathlib import Path

from cimc.backends.protocol import BaseBackend

BACKEND = BaseBackend(Path(__file__).with_name("jain.yaml"))
