"""Closed-form scheduling: copies of convolutions, latencies and bounds from formulas (docs/scheduling.md)."""
