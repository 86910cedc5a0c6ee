"""Passes of the `quantise` stage."""
