"""The core-mode SRAM chip of Jia et al.; its numbers and their sources stand in ``jia.yaml``."""

from __future__ import annotations

from pathlib import Path

from cimc.backends.protocol import BaseBackend

BACKEND = BaseBackend(Path(__file__).with_name("jia.yaml"))
