"""Copies of the array stages of a mapped module, and the bounds they are measured against (docs/scheduling.md)."""
