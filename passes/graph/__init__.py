"""Passes of the `graph` stage."""
