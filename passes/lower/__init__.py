"""Passes of the `lower` stage."""
