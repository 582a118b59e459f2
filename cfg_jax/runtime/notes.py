"""Notes: lines for a person, printed beside tqdm's bar."""

from tqdm import tqdm

from cfg_jax.runtime import processes


def note(line: str) -> None:
    """Prints one line beside the progress bar; of several processes, the first one does."""
    if processes.is_first():
        tqdm.write(line)
