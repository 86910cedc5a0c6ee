"""Weights that stream through bounded memory: placement, buffer pool, stores (docs/streaming.md)."""
