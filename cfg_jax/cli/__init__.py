"""The commands, one module each; a user's mistake is answered in one line, with exit code 2."""

import contextlib
import importlib
import keyword
import os
import sys
import traceback
from pathlib import Path

COMMANDS = {
    "train": "train a guided diffusion model, or go on training it",
    "sample": "sample images from a trained model",
    "evaluate": "score samples over a sweep of guidance strengths",
    "score": "score samples against a reference, as published figures are",
    "prepare": "prepare a data set once, before training",
    "import": "make a run of weights that were trained elsewhere",
    "export": "write a trained model to one .safetensors file",
    "plan": "see whether a recipe fits a TPU slice, and how fast it can be there",
}

USAGE = "usage: python -m cfg_jax COMMAND [--help] [flags]\n\n" + "\n".join(
    f"  {name:10}{what}" for name, what in COMMANDS.items()
)

ON_DEVICES = ("train", "sample", "evaluate", "score")
"""Commands that compute over all devices."""

MISTAKE, FAILURE, INTERRUPTED = 2, 1, 130
"""Exit codes: a user's mistake, a run that went wrong, and one that was asked to stop."""


class FailedError(Exception):
    """A run that did not reach its end, through no mistake in the command; told in one line."""

    def __init__(self, message: str, code: int = FAILURE):
        super().__init__(message)
        self.code = code


def main(argv: list[str] | None = None) -> None:
    """Runs the command that the arguments name, and exits."""
    name, *rest = (sys.argv[1:] if argv is None else argv) or ["--help"]
    if name in ("--help", "-h", "help"):
        say(USAGE)
        sys.exit(0)
    if name not in COMMANDS:
        _say(f"there is no command {name!r}; there are {', '.join(COMMANDS)}")
        sys.exit(MISTAKE)
    from cfg_jax.runtime import processes

    with processes.together():
        _run(name, rest)


def entry() -> None:
    """Runs the command of this process' arguments.

    Interrupted, the process ends at once: compiling goes on in threads of XLA's own, and a tidy end
    of Python under them is a segmentation fault.
    """
    try:
        main()
    except SystemExit as stop:
        from cfg_jax.runtime import failures

        if stop.code == INTERRUPTED:
            failures.end(INTERRUPTED)
        raise


def _run(name: str, arguments: list[str]) -> None:
    """Runs a command; an error that is not a bug is one line, and an exit code."""
    try:
        if name in ON_DEVICES:
            _use_cores()
        module = f"{name}_" if keyword.iskeyword(name) else name
        importlib.import_module(f"cfg_jax.cli.{module}").run(arguments)
    except FailedError as failure:
        _say(f"{name}: {failure}")
        sys.exit(failure.code)
    except KeyboardInterrupt:
        _say(f"{name}: interrupted")
        sys.exit(INTERRUPTED)
    except (ValueError, TypeError) as error:
        if not _is_ours(error):
            raise
        _say(f"{name}: {error}")
        sys.exit(MISTAKE)
    except OSError as error:
        if not error.filename:
            raise
        _say(f"{name}: {os.fsdecode(error.filename)}: {error.strerror}")
        sys.exit(MISTAKE)


def say(text: str) -> None:
    """Prints; ends quietly where nobody reads on, as behind `| head`."""
    try:
        print(text, flush=True)
    except BrokenPipeError:
        # Python flushes once more when it exits, and would complain there.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(0)


def _use_cores() -> None:
    """Has JAX use all cores, unless it has started already."""
    from cfg_jax.runtime.cores import use_cores

    with contextlib.suppress(ValueError):
        use_cores()


def _say(message: str) -> None:
    print(f"cfg_jax {message}", file=sys.stderr)


def _is_ours(error: BaseException) -> bool:
    """Whether this package raised the error: any other is a bug, and keeps its traceback."""
    *_, last = traceback.walk_tb(error.__traceback__)
    return Path(__file__).parents[1] in Path(last[0].f_code.co_filename).parents
