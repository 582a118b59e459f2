"""Runs a command: python -m cfg_jax COMMAND."""

from cfg_jax.cli import entry

if __name__ == "__main__":
    entry()
