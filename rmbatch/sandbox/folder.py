"""The folder in which programs may write, as those see it who clear up after them: it is whatever a program made of it.

Runs inside the sandbox, so it imports the standard library only.

    holds_little("/tmp", most_bytes=32 << 20, most_files=1024)
    remove("/tmp/rmbatch-sandbox-x")
"""

import os
import shutil
import stat
from contextlib import suppress


def holds_little(folder: str, most_bytes: int, most_files: int) -> bool:
    """Whether what is in a folder is within these bounds; what cannot be looked into is not."""
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


def is_as_new(folder: str, mode: int) -> bool:
    """Whether a folder is there, nothing is in it, and its rights are these."""
    try:
        return os.stat(folder).st_mode == mode and not os.listdir(folder)
    except OSError:
        return False


def remove(folder: str) -> None:
    """Remove a folder with all that is in it, also what its program has closed to us; nobody uses it any more."""
    with suppress(OSError):
        os.chmod(folder, 0o700)
        for _, names, _, opened in os.fwalk(folder):
            for name in names:  # opened before it is walked into
                if stat.S_ISDIR(os.stat(name, dir_fd=opened, follow_symlinks=False).st_mode):
                    os.chmod(name, 0o700, dir_fd=opened)
    shutil.rmtree(folder, ignore_errors=True)
