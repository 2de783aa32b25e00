"""What is under a folder, in a form that two folders can be compared by."""

import hashlib
import os
import pathlib


def describe(root):
    """What is under a folder: of each path the kind, and of a file whether it may be executed, and its bytes."""
    found = {}
    for folder, folders, files in os.walk(root):
        for name in folders + files:
            path = pathlib.Path(folder) / name
            key = str(path.relative_to(root))
            if path.is_symlink():
                found[key] = ("link", os.readlink(path))
            elif path.is_dir():
                found[key] = ("folder",)
            else:
                found[key] = ("file", os.access(path, os.X_OK), hashlib.sha256(path.read_bytes()).hexdigest())
    return found
