"""The seccomp filter on its own: what it refuses where landlock does not help, and what it leaves to programs."""

import ctypes
import errno
import fcntl
import os
from collections.abc import Callable
from pathlib import Path

import pytest

from rmbatch.sandbox import walls

pytestmark = pytest.mark.skipif(not walls.has_seccomp(), reason="no filter for this kind of machine")
F_SETSIG, F_SETOWN_EX, FIOASYNC, FIOSETOWN, FS_IOC_SETFLAGS = 10, 15, 0x5452, 0x8901, 0x40086602


def _behind(action: Callable[[], object], apart: bool = False) -> int:
    """The error number that an action ends in behind the filter, 0 for none."""
    child = os.fork()
    if child == 0:
        try:
            walls.no_new_privileges()
            walls.seccomp_restrict(walls.seccomp_filter(apart))
            action()
            os._exit(0)
        except OSError as fault:
            os._exit(fault.errno or 255)
        except BaseException:
            os._exit(254)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


def _pipe() -> int:
    return os.pipe()[0]


def _call(number: int) -> None:
    walls.syscall(number, *[ctypes.c_long(-1)] * 5)


@pytest.mark.parametrize(
    "number", [463, 466, 467, 469], ids=["setxattrat", "removexattrat", "open_tree_attr", "file_setattr"]
)
def test_calls_that_change_files_are_refused(number: int) -> None:
    assert _behind(lambda: _call(number)) == errno.EPERM


@pytest.mark.parametrize("number", [464, 465, 468], ids=["getxattrat", "listxattrat", "file_getattr"])
def test_calls_that_read_attributes_are_not(number: int) -> None:
    assert _behind(lambda: _call(number)) not in (0, errno.EPERM)


@pytest.mark.parametrize(
    "action",
    [
        lambda: fcntl.fcntl(_pipe(), fcntl.F_SETOWN, os.getppid()),
        lambda: fcntl.fcntl(_pipe(), F_SETSIG, 9),
        lambda: fcntl.fcntl(_pipe(), F_SETOWN_EX, bytes(8)),
        lambda: fcntl.fcntl(_pipe(), fcntl.F_SETFL, os.O_ASYNC),
        lambda: fcntl.fcntl(_pipe(), fcntl.F_SETLEASE, fcntl.F_RDLCK),
    ],
    ids=["F_SETOWN", "F_SETSIG", "F_SETOWN_EX", "O_ASYNC", "F_SETLEASE"],
)
@pytest.mark.parametrize("apart", [False, True])
def test_signals_by_way_of_a_file_are_refused(action: Callable[[], object], apart: bool) -> None:
    assert _behind(action, apart) == errno.EPERM


@pytest.mark.parametrize("request_number", [FIOASYNC, FIOSETOWN, FS_IOC_SETFLAGS])
def test_harmful_ioctl_is_refused(request_number: int, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    opened = os.open(tmp_path / "file", os.O_RDONLY)
    assert _behind(lambda: fcntl.ioctl(opened, request_number, bytes(8))) == errno.ENOTTY
    os.close(opened)


def test_ordinary_file_use_works(tmp_path: Path) -> None:
    def use_files() -> None:
        reading, writing = os.pipe()
        os.set_blocking(reading, False)
        os.set_inheritable(reading, True)
        fcntl.fcntl(reading, fcntl.F_SETFL, os.O_NONBLOCK)
        fcntl.fcntl(reading, fcntl.F_GETFL)
        fcntl.fcntl(reading, fcntl.F_DUPFD, 10)
        assert not os.isatty(writing)
        (tmp_path / "file").write_text("x" * 100)
        with open(tmp_path / "file", "r+") as file:
            file.truncate(10)
        assert (tmp_path / "file").stat().st_size == 10

    assert _behind(use_files) == 0
