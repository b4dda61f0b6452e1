"""The walls that a process puts around itself and can never take down: landlock, seccomp, rlimits, another user.

This module starts no process; ``zygote.py`` puts up the walls in this order. Runs inside the sandbox, so it imports the
standard library only. The numbers are Linux's, for x86_64 and aarch64.

    set_limits(ProcessLimits(...), base_bytes=0)
    no_new_privileges()
    landlock_restrict(landlock_ruleset(["/usr"], ["/tmp"]))
    seccomp_restrict(seccomp_filter(apart=True))
"""

import ctypes
import os
import platform
import resource
import struct
from dataclasses import dataclass

LIBC = ctypes.CDLL(None, use_errno=True)
EPERM, ENOSYS, ENOTTY = 1, 38, 25

_PR_SET_PDEATHSIG, _PR_SET_DUMPABLE, _PR_SET_SECCOMP, _PR_SET_CHILD_SUBREAPER, _PR_SET_NO_NEW_PRIVS = 1, 4, 22, 36, 38
_PR_SET_MM, _PR_SET_PTRACER = 35, 0x59616D61


@dataclass(frozen=True)
class ProcessLimits:
    """What one process may use. The kernel holds the process and each of its children to these limits."""

    cpu_s: int
    """Processor seconds after which the kernel kills it; the harness's finer clock comes first."""
    memory_bytes: int
    """Address space, on top of what the zygote has already."""
    file_bytes: int
    open_files: int
    tasks: int
    """Processes and threads of the sandbox's user."""


def call(name: str, *arguments: object) -> int:
    """Call a function of libc; raises OSError where it fails."""
    result = int(getattr(LIBC, name)(*arguments))
    if result < 0:
        number = ctypes.get_errno()
        raise OSError(number, f"{name}: {os.strerror(number)}")
    return result


def syscall(number: int, *arguments: object) -> int:
    """Make a system call that libc has no function for."""
    return call("syscall", ctypes.c_long(number), *arguments)


def end_with_parent() -> None:
    """Be killed when the parent dies; this works only where the parent has one thread."""
    call("prctl", _PR_SET_PDEATHSIG, 9, 0, 0, 0)


def hide_memory() -> None:
    """Let no process of this user look into this one or into its children (/proc/<pid>, ptrace)."""
    call("prctl", _PR_SET_DUMPABLE, 0, 0, 0, 0)


def adopt_orphans() -> None:
    """Become the parent of descendants that lose theirs."""
    call("prctl", _PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)


def drop_capabilities() -> None:
    """Give up every capability; after ``no_new_privileges`` this is final."""
    header = struct.pack("=Ii", 0x20080522, 0)
    call("capset", header, bytes(24))


def set_limits(limits: ProcessLimits, base_bytes: int) -> None:
    """Set the rlimits; from then on they can only be lowered."""
    memory = base_bytes + limits.memory_bytes
    for kind, value in (
        (resource.RLIMIT_AS, memory),
        (resource.RLIMIT_FSIZE, limits.file_bytes),
        (resource.RLIMIT_NOFILE, limits.open_files),
        (resource.RLIMIT_NPROC, limits.tasks),
        (resource.RLIMIT_CORE, 0),
        (resource.RLIMIT_MEMLOCK, 0),
        (resource.RLIMIT_MSGQUEUE, 0),
    ):
        highest = resource.getrlimit(kind)[1]
        value = value if highest == resource.RLIM_INFINITY else min(value, highest)
        resource.setrlimit(kind, (value, value))
    resource.setrlimit(resource.RLIMIT_CPU, (limits.cpu_s, limits.cpu_s))


def become(user: int, keep_reading: bool) -> None:
    """Turn from root into a user who owns nothing; with ``keep_reading`` it may still read files of every owner.

    That is for a Python that only root can read (under /root), and only behind landlock, which limits what is readable.
    """
    if keep_reading:
        call("prctl", 8, 1, 0, 0, 0)  # PR_SET_KEEPCAPS
    os.setgroups([])
    os.setresgid(user, user, user)
    os.setresuid(user, user, user)
    if keep_reading:
        reading = 1 << 2  # CAP_DAC_READ_SEARCH
        call("capset", struct.pack("=Ii", 0x20080522, 0), struct.pack("=IIIIII", reading, reading, 0, 0, 0, 0))


def no_new_privileges() -> None:
    """Let no program that this process starts gain more rights."""
    call("prctl", _PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0)


# ---- landlock: which paths can be opened ----------------------------------------------------------------------------

_READ_FILE, _READ_DIR, _WRITE_FILE, _TRUNCATE = 1 << 2, 1 << 3, 1 << 1, 1 << 14
_MAKE_ANY_BUT_SPECIAL = 1 << 4 | 1 << 5 | 1 << 7 | 1 << 8 | 1 << 12 | 1 << 13  # remove, directory, file, symlink, move
_READ = _READ_FILE | _READ_DIR
_WRITE = _READ | _WRITE_FILE | _MAKE_ANY_BUT_SPECIAL | _TRUNCATE


def landlock_version() -> int:
    """The kernel's landlock, 0 where there is none."""
    try:
        return syscall(444, None, ctypes.c_size_t(0), ctypes.c_uint(1))
    except OSError:
        return 0


def landlock_ruleset(readable: list[str], writable: list[str]) -> int:
    """A ruleset as an open file: read under some paths, write under others, no TCP, no signals out, nothing else."""
    version = landlock_version()
    handled = (1 << 13) - 1
    for since, right in ((2, 1 << 13), (3, 1 << 14), (5, 1 << 15)):
        handled |= right if version >= since else 0
    network, scoped = (3 if version >= 4 else 0), (3 if version >= 6 else 0)
    size = 24 if version >= 6 else 16 if version >= 4 else 8
    attributes = struct.pack("=QQQ", handled, network, scoped)[:size]
    ruleset = syscall(444, attributes, ctypes.c_size_t(size), ctypes.c_uint(0))
    os.set_inheritable(ruleset, False)
    for paths, rights in ((readable, _READ), (writable, _WRITE)):
        for path in paths:
            if os.path.exists(path):
                _allow(ruleset, path, rights & handled)
    return ruleset


def _allow(ruleset: int, path: str, rights: int) -> None:
    if not os.path.isdir(path):
        rights &= _READ_FILE | (_WRITE_FILE if path == "/dev/null" else 0)
    descriptor = os.open(path, os.O_PATH | os.O_CLOEXEC)
    try:
        rule = struct.pack("=Qi", rights, descriptor)
        syscall(445, ctypes.c_int(ruleset), ctypes.c_int(1), rule, ctypes.c_uint(0))
    finally:
        os.close(descriptor)


def landlock_restrict(ruleset: int) -> None:
    """Hold this process and its children to the ruleset."""
    syscall(446, ctypes.c_int(ruleset), ctypes.c_uint(0))


# ---- seccomp: which system calls there are --------------------------------------------------------------------------

_MACHINES = {"x86_64": (0xC000003E, 0), "aarch64": (0xC00000B7, 1)}
_DENIED = {
    # No network: socketpair stays, because asyncio wakes itself through one.
    "socket": (41, 198), "connect": (42, 203), "bind": (49, 200), "listen": (50, 201), "accept": (43, 202),
    "accept4": (288, 242),
    # No other program than this one.
    "execve": (59, 221), "execveat": (322, 281),
    # No hand on other processes: the zygote has the same user.
    "ptrace": (101, 117), "process_vm_readv": (310, 270), "process_vm_writev": (311, 271), "kcmp": (312, 272),
    "pidfd_open": (434, 434), "pidfd_getfd": (438, 438), "pidfd_send_signal": (424, 424),
    "process_madvise": (440, 440), "process_mrelease": (448, 448), "migrate_pages": (256, 238),
    "move_pages": (279, 239), "setpriority": (141, 140), "ioprio_set": (251, 30), "sched_setaffinity": (203, 122),
    "sched_setscheduler": (144, 119), "sched_setparam": (142, 118), "sched_setattr": (314, 274),
    # No other view of files, names or identities.
    "mount": (165, 40), "umount2": (166, 39), "pivot_root": (155, 41), "chroot": (161, 51), "unshare": (272, 97),
    "setns": (308, 268), "open_tree": (428, 428), "move_mount": (429, 429), "fsopen": (430, 430),
    "fsconfig": (431, 431), "fsmount": (432, 432), "fspick": (433, 433), "mount_setattr": (442, 442),
    "name_to_handle_at": (303, 264), "open_by_handle_at": (304, 265), "fanotify_init": (300, 262),
    "open_tree_attr": (467, 467), "sethostname": (170, 161), "setdomainname": (171, 162), "personality": (135, 92),
    # No memory or state that outlives the process or escapes its limits.
    "shmget": (29, 194), "shmat": (30, 196), "semget": (64, 190), "msgget": (68, 186), "mq_open": (240, 180),
    "memfd_create": (319, 279), "memfd_secret": (447, 447), "add_key": (248, 217), "request_key": (249, 218),
    "keyctl": (250, 219), "mlock": (149, 228), "mlock2": (325, 284), "mlockall": (151, 230),
    # No part of the kernel that a solution to an exercise has no business with.
    "bpf": (321, 280), "perf_event_open": (298, 241), "userfaultfd": (323, 282), "io_uring_setup": (425, 425),
    "io_uring_enter": (426, 426), "io_uring_register": (427, 427), "seccomp": (317, 277), "kexec_load": (246, 104),
    "init_module": (175, 105), "finit_module": (313, 273), "delete_module": (176, 106), "reboot": (169, 142),
    "swapon": (167, 224), "swapoff": (168, 225), "syslog": (103, 116), "acct": (163, 89), "quotactl": (179, 60),
    "quotactl_fd": (443, 443),
    "settimeofday": (164, 170), "clock_settime": (227, 112), "adjtimex": (159, 171), "clock_adjtime": (305, 266),
    "iopl": (172, None), "ioperm": (173, None), "modify_ldt": (154, None), "landlock_restrict_self": (446, 446),
}  # fmt: skip
_SIGNALS = {
    "kill": (62, 129), "tkill": (200, 130), "tgkill": (234, 131), "rt_sigqueueinfo": (129, 138),
    "rt_tgsigqueueinfo": (297, 240),
}  # fmt: skip
_OWNERSHIP = {  # landlock does not hold these back, and outside of a mount namespace the files are there
    "setxattrat": (463, 463), "removexattrat": (466, 466), "file_setattr": (469, 469),
    "chmod": (90, None), "fchmod": (91, 52), "fchmodat": (268, 53), "fchmodat2": (452, 452), "chown": (92, None),
    "fchown": (93, 55), "lchown": (94, None), "fchownat": (260, 54), "setxattr": (188, 5), "lsetxattr": (189, 6),
    "fsetxattr": (190, 7), "removexattr": (197, 14), "lremovexattr": (198, 15), "fremovexattr": (199, 16),
    "utime": (132, None), "utimes": (235, None), "futimesat": (261, None), "utimensat": (280, 88),
}  # fmt: skip
_TRUNCATES = {"truncate": (76, 45)}  # landlock holds this back from its version 3 on
_CLONE, _CLONE3, _PRCTL, _PRLIMIT = (56, 220), (435, 435), (157, 167), (302, 261)
_FCNTL, _IOCTL = (72, 25), (16, 29)
_SET_OWNER = (8, 10, 15)  # F_SETOWN, F_SETSIG, F_SETOWN_EX: the kernel would send signals for us
_LEASES = (1024, 1026)  # F_SETLEASE, F_NOTIFY: others wait for us, or we are sent signals
_SET_FLAGS, _O_ASYNC = 4, 0x2000
_HARMLESS_IOCTL = (0x5401, 0x5413, 0x541B, 0x5421, 0x5450, 0x5451)
"""TCGETS, TIOCGWINSZ, FIONREAD, FIONBIO, FIONCLEX, FIOCLEX; others change files open for reading, or signal."""
_NEW_NAMESPACE = 0x7E020000
_OWN_PRCTL = (_PR_SET_PDEATHSIG, _PR_SET_DUMPABLE, _PR_SET_CHILD_SUBREAPER, _PR_SET_MM, _PR_SET_PTRACER)

_LOAD, _EQUAL, _ANY_BIT, _AT_LEAST, _RETURN = 0x20, 0x15, 0x45, 0x35, 0x06
_ALLOW, _KILL, _ERROR = 0x7FFF0000, 0x80000000, 0x00050000
_Instruction = tuple[int, int, int, int]


def has_seccomp() -> bool:
    """Whether the filter below fits this machine."""
    return platform.machine() in _MACHINES


def seccomp_filter(apart: bool) -> bytes:
    """The filter as the kernel reads it; ``apart``: namespaces already keep other processes and files out of reach."""
    shared = {} if apart else _SIGNALS | _OWNERSHIP | (_TRUNCATES if landlock_version() < 3 else {})
    architecture, column = _MACHINES[platform.machine()]
    program: list[_Instruction] = [
        (_LOAD, 0, 0, 4),
        (_EQUAL, 1, 0, architecture),
        (_RETURN, 0, 0, _KILL),
        (_LOAD, 0, 0, 0),
    ]
    if column == 0:  # the second set of numbers that x86_64 has
        program += [(_AT_LEAST, 0, 1, 0x40000000), (_RETURN, 0, 0, _ERROR | ENOSYS)]
    program += [(_EQUAL, 0, 1, _CLONE3[column]), (_RETURN, 0, 0, _ERROR | ENOSYS)]  # its flags cannot be read here
    for numbers in (*_DENIED.values(), *shared.values()):
        if numbers[column] is not None:
            program += [(_EQUAL, 0, 1, int(numbers[column])), (_RETURN, 0, 0, _ERROR | EPERM)]  # type: ignore[arg-type]
    denied = (_RETURN, 0, 0, _ERROR | EPERM)
    program += _match_call(_CLONE[column], [_load(0), (_ANY_BIT, 0, 1, _NEW_NAMESPACE), denied])
    program += _match_call(_PRLIMIT[column], [_load(0), (_EQUAL, 1, 0, 0), denied])
    program += _match_call(
        _PRCTL[column], [_load(0), *(part for n in _OWN_PRCTL for part in ((_EQUAL, 0, 1, n), denied))]
    )
    refused = [part for n in (*_SET_OWNER, *_LEASES) for part in ((_EQUAL, 0, 1, n), denied)]
    asynchronous = [(_EQUAL, 0, 3, _SET_FLAGS), _load(2), (_ANY_BIT, 0, 1, _O_ASYNC), denied]
    program += _match_call(_FCNTL[column], [_load(1), *refused, *asynchronous])
    harmless = [(_EQUAL, len(_HARMLESS_IOCTL) - place, 0, n) for place, n in enumerate(_HARMLESS_IOCTL)]
    program += _match_call(_IOCTL[column], [_load(1), *harmless, (_RETURN, 0, 0, _ERROR | ENOTTY)])
    program.append((_RETURN, 0, 0, _ALLOW))
    return b"".join(struct.pack("=HBBI", *instruction) for instruction in program)


def _match_call(number: int, test: list[_Instruction]) -> list[_Instruction]:
    """Run the test for this call only; the filter goes on after its last instruction, unless it returns."""
    return [(_EQUAL, 0, len(test) + 1, number), *test, (_LOAD, 0, 0, 0)]


def _load(place: int) -> _Instruction:
    """Load the lower half of an argument of the call."""
    return (_LOAD, 0, 0, 16 + 8 * place)


def seccomp_restrict(compiled: bytes) -> None:
    """Hold this process and its children to the filter."""

    class Program(ctypes.Structure):
        _fields_ = (("length", ctypes.c_ushort), ("filter", ctypes.c_void_p))

    buffer = ctypes.create_string_buffer(compiled, len(compiled))
    program = Program(len(compiled) // 8, ctypes.addressof(buffer))
    call("prctl", _PR_SET_SECCOMP, 2, ctypes.byref(program), 0, 0)
