"""Files that people write: YAML with a line for every value, validated against a pydantic model.

Machines, mapping options and devices share these rules (docs/architecture-file.md, "Rules of the format").
"""
