"""Folders and zip files of many small files."""

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
