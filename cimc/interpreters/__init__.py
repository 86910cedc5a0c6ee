"""Interpreters of levels 1 to 3: what a program at each level means."""
