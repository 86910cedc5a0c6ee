"""Passes of the `place` stage."""
