"""Runs a command: python -m cfg_jax COMMAND."""

from cfg_jax.cli import main

if __name__ == "__main__":
    main()
