"""When the rows of a mapped module are there, in closed form (docs/scheduling.md, Estimate)."""
