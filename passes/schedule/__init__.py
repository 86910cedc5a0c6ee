"""Passes of the `schedule` stage."""
