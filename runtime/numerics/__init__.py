"""The arithmetic all levels share: ``docs/numerics.md`` (digital unit), ``docs/crossbar.md`` (arrays)."""
