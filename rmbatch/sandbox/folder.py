"""Measures, checks and removes the folder in which programs may write; a program may have put anything into it.

Runs inside the sandbox, so it imports the standard library only.

    is_within("/tmp", most_bytes=32 << 20, most_files=1024)
    remove("/tmp/rmbatch-sandbox-x")
"""

import os
import shutil
import stat
from contextlib import suppress


def is_within(folder: str, most_bytes: int, most_files: int) -> bool:
    """Whether a folder's content is within these bounds; False for what cannot be read."""
    size, count, folders = 0, 0, [folder]
    while folders:
        try:
            with os.scandir(folders.pop()) as entries:
                for entry in entries:
                    count += 1
                    with suppress(FileNotFoundError):
                        found = entry.stat(follow_symlinks=False)
                        size += found.st_blocks << 9
                        if stat.S_ISDIR(found.st_mode):
                            folders.append(entry.path)
                    if size > most_bytes or count > most_files:
                        return False
        except (FileNotFoundError, NotADirectoryError):  # gone meanwhile
            continue
        except OSError:  # not to be read, or named too long: a place to hide files
            return False
    return True


def is_pristine(folder: str, mode: int) -> bool:
    """Whether a folder exists, is empty and has this mode."""
    try:
        return os.stat(folder).st_mode == mode and not os.listdir(folder)
    except OSError:
        return False


def remove(folder: str) -> None:
    """Remove a folder that nobody uses any more, with all its content, even where a program took the rights to it."""
    with suppress(OSError):
        os.chmod(folder, 0o700)
        for _, names, _, descriptor in os.fwalk(folder):
            for name in names:  # opened before it is walked into
                if stat.S_ISDIR(os.stat(name, dir_fd=descriptor, follow_symlinks=False).st_mode):
                    os.chmod(name, 0o700, dir_fd=descriptor)
    shutil.rmtree(folder, ignore_errors=True)
