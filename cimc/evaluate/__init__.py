"""Accuracy on real devices: metrics, chip instances, sweeps that resume, sensitivity of layers (docs/evaluation.md)."""
