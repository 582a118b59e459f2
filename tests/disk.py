"""A disk on which no file may grow any more."""

import contextlib
import resource
from collections.abc import Iterator


@contextlib.contextmanager
def full(size: int = 0) -> Iterator[None]:
    """Has this process write no file beyond so many bytes: the system says "File too large"."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
