"""Folders and zip files of many small files, and what may keep its reader waiting."""

import threading
import zipfile


def write(root, files):
    """Writes files by their names below a folder, and returns it."""
    for name, content in files.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
    return root


def zipped(path, files):
    """Writes files by their names into a zip, and returns its path."""
    with zipfile.ZipFile(path, "w") as archive:
        for name, content in files.items():
            archive.writestr(name, content)
    return path


def answered(call, *, seconds=20):
    """What a call raises, which must end within so many seconds; None if nothing."""
    raised = []

    def run():
        try:
            call()
        except BaseException as error:
            raised.append(error)

    thread = threading.Thread(target=run, daemon=True)
    thread.start()
    thread.join(seconds)
    assert not thread.is_alive(), "it still waits"
    return raised[0] if raised else None
