"""``python -m cimc``: the command line."""

from cimc.cli import main

if __name__ == "__main__":  # processes of a local cluster import this module again
    main()
