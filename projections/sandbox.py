"""What the operating system takes away from a process before it looks at a stranger's statement.

Everything here is for the process that calls it and can't be undone by it. What a kernel does not
have is left out and said (`Confined`): the limits are the same everywhere, Landlock and the filter
of system calls are a second wall behind DuckDB's own.
"""

from __future__ import annotations

import ctypes
import os
import platform
import resource
import signal
import struct
import time
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

_PR_SET_PDEATHSIG, _PR_SET_DUMPABLE, _PR_SET_SECCOMP, _PR_SET_NO_NEW_PRIVS = 1, 4, 22, 38
_SECCOMP_MODE_FILTER = 2

_LANDLOCK_CREATE, _LANDLOCK_ADD_RULE, _LANDLOCK_RESTRICT = 444, 445, 446
_LANDLOCK_CREATE_RULESET_VERSION = 1
_LANDLOCK_RULE_PATH_BENEATH = 1
_READ_FILE, _READ_DIR = 1 << 2, 1 << 3
_FILE_RIGHTS = {1: 13, 2: 14, 3: 15, 4: 15}
"""How many kinds of file access each version of Landlock knows; 16 from version 5 on."""

_CGROUP = (
    (Path("/proc/self/cgroup"), _READ_FILE),
    (Path("/sys/fs/cgroup"), _READ_FILE | _READ_DIR),
)
"""DuckDB looks there, when it starts, for how much memory there is, and ends where it may not."""

_AUDIT_ARCH = {"x86_64": 0xC000003E, "aarch64": 0xC00000B7}
_CLONE = {"x86_64": 56, "aarch64": 220}
_CLONE3 = 435
_CLONE_THREAD = 0x10000
_X32 = 0x40000000
_DENIED: dict[str, tuple[int, ...]] = {
    # socket … listen, socketpair, accept4, fork, vfork, execve, execveat, kill, tkill, ptrace,
    # rename, mkdir, rmdir, creat, link, unlink, symlink, chmod, chown and their kin, mount,
    # umount2, chroot, pivot_root, setns, unshare, process_vm_readv and writev, bpf,
    # perf_event_open, keyctl, add_key, request_key, io_uring, memfd_create, userfaultfd,
    # init_module and finit_module, open_by_handle_at.
    "x86_64": (
        *(41, 42, 43, 49, 50, 53, 288, 57, 58, 59, 322, 62, 200, 101),
        *(82, 83, 84, 85, 86, 87, 88, 90, 91, 92, 93, 94, 258, 259, 260, 263, 264, 265, 266, 268),
        *(316, 165, 166, 161, 155, 308, 272, 310, 311, 321, 298, 250, 248, 249, 425, 426, 427),
        *(319, 323, 175, 313, 304),
    ),
    "aarch64": (
        *(198, 199, 200, 201, 202, 203, 242, 221, 281, 129, 130, 117),
        *(33, 34, 35, 36, 37, 38, 52, 53, 54, 55, 276, 40, 39, 51, 41, 268, 97, 270, 271, 280),
        *(241, 219, 217, 218, 425, 426, 427, 279, 282, 105, 273, 265),
    ),
}
_ALLOW, _EPERM, _ENOSYS = 0x7FFF0000, 0x00050001, 0x00050026

_libc = ctypes.CDLL(None, use_errno=True)


@dataclass(frozen=True, slots=True)
class Limits:
    """What a statement may use."""

    memory_mb: int
    """For DuckDB; the process gets some more, see `confine`."""
    threads: int
    cpu_s: int


@dataclass(frozen=True, slots=True)
class Confined:
    """Which of the walls that not every kernel has are up."""

    landlock: int
    """The version; 0: none."""
    system_calls: bool


_SCHED_SETATTR = {"x86_64": 314, "aarch64": 274}
_SCHED_ATTR = struct.Struct("=IIQiIQQQ")
LOWEST_NICE = 19
SLICE_NS = 5_000_000
"""A process runs for a part of its slice before one that wakes up takes its place, unless that
one's slice is shorter. So this is longer than Linux's own, at most 3 ms; but not by much, since
under full load a process waits for its next turn the longer, the longer its slice is."""
_AUTOGROUP = Path("/proc/self/autogroup")
_AUTOGROUP_TRIES = 5
SESSION_NICE = 10
"""A tenth of another session's share, where nothing is left over: a query under full load is slow,
but is not starved until its time is up."""


def lower_priority() -> None:
    """Lets everything else on the machine go first.

    Idle is more than the lowest nice: who wakes up takes a processor that only runs what is idle
    for one that is free, and takes its place at once. Beside a nice process they queue up on the
    other processors.
    """
    os.nice(LOWEST_NICE)
    if os.getsid(0) == os.getpid():
        # Where Linux shares the processor out by session, nice counts within one only: a session
        # of one's own would have as much as the whole server. No other session is touched.
        lower_session()
    try:
        os.sched_setscheduler(0, os.SCHED_IDLE, os.sched_param(0))
    except (OSError, AttributeError):
        return
    _lengthen_slice()


def _lengthen_slice() -> None:
    """SLICE_NS for the calling thread and what it starts. Linux looks at it from 6.12 on."""
    number = _SCHED_SETATTR.get(platform.machine())
    if number is not None:
        size, idle = _SCHED_ATTR.size, os.SCHED_IDLE
        _libc.syscall(number, 0, _SCHED_ATTR.pack(size, idle, 0, LOWEST_NICE, 0, SLICE_NS, 0, 0), 0)


def lower_session() -> None:
    """SESSION_NICE for the calling process's session, where sessions have a priority."""
    for _ in range(_AUTOGROUP_TRIES):
        try:
            _AUTOGROUP.write_text(str(SESSION_NICE))
        except BlockingIOError:
            # The kernel takes one such change in a tenth of a second, of anybody's.
            time.sleep(0.1)
        except OSError:
            return
        else:
            return


def die_with_parent(parent_id: int) -> None:
    """Ends this process as soon as the thread that started it is gone."""
    _libc.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
    if os.getppid() != parent_id:
        os._exit(0)


def confine(folder: Path) -> Confined:
    """Sets the limits that hold from the start of the process.

    It can read files below `folder` and nothing else, write none, start no process, open no
    connection, get no new rights, leave no core file. Only what the calling thread starts from
    now on inherits the two walls, so this comes before DuckDB has made its threads.
    """
    for name, value in (
        (resource.RLIMIT_CORE, 0),
        (resource.RLIMIT_FSIZE, 0),
        (resource.RLIMIT_NOFILE, 1_024),
    ):
        resource.setrlimit(name, (value, value))
    _libc.prctl(_PR_SET_DUMPABLE, 0, 0, 0, 0)
    _libc.prctl(_PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0)
    return Confined(_landlock(folder), _filter_system_calls())


def size_reader() -> BinaryIO:
    """The file that tells how much this process has; to be opened before it is confined."""
    return Path("/proc/self/statm").open("rb", buffering=0)


def limit_use(limits: Limits, reader: BinaryIO) -> None:
    """Sets the limits on memory and processor time, from what the process has used by now.

    DuckDB counts most of its memory and ends a statement cleanly at its own limit. This one is for
    what it does not count, and is half as much again beside some room for threads.
    """
    pages = int(reader.read().split()[0])
    size = pages * resource.getpagesize()
    size += (limits.memory_mb * 3 // 2 + 256 + 80 * limits.threads) * 1024**2
    resource.setrlimit(resource.RLIMIT_AS, (size, size))
    used = resource.getrusage(resource.RUSAGE_SELF)
    cpu_s = int(used.ru_utime + used.ru_stime) + 1 + limits.cpu_s
    resource.setrlimit(resource.RLIMIT_CPU, (cpu_s, cpu_s))


class _Ruleset(ctypes.Structure):
    _fields_ = (
        ("files", ctypes.c_uint64),
        ("network", ctypes.c_uint64),
        ("scoped", ctypes.c_uint64),
    )


def _landlock(folder: Path) -> int:
    """Forbids every access to files but reading below the folder; the version, 0 for none."""
    version = int(_libc.syscall(_LANDLOCK_CREATE, None, 0, _LANDLOCK_CREATE_RULESET_VERSION))
    if version < 1:
        return 0
    files = (1 << _FILE_RIGHTS.get(version, 16)) - 1
    rules = _Ruleset(files, 3 if version >= 4 else 0, 3 if version >= 6 else 0)
    size = 8 if version < 4 else 16 if version < 6 else 24
    ruleset = _libc.syscall(_LANDLOCK_CREATE, ctypes.byref(rules), size, 0)
    if ruleset < 0:
        return 0
    try:
        for path, rights in ((folder, _READ_FILE | _READ_DIR), *_CGROUP):
            if not _allow(ruleset, path, rights) and path == folder:
                return 0
        return version if _libc.syscall(_LANDLOCK_RESTRICT, ruleset, 0) == 0 else 0
    finally:
        os.close(ruleset)


def _allow(ruleset: int, path: Path, rights: int) -> bool:
    try:
        opened = os.open(path, os.O_PATH | os.O_CLOEXEC)
    except OSError:
        return False
    try:
        # struct landlock_path_beneath_attr is packed: no gap after the file's number.
        rule = struct.pack("=Qi", rights, opened)
        return bool(
            _libc.syscall(_LANDLOCK_ADD_RULE, ruleset, _LANDLOCK_RULE_PATH_BENEATH, rule, 0) == 0
        )
    finally:
        os.close(opened)


class _Program(ctypes.Structure):
    _fields_ = (("length", ctypes.c_ushort), ("filter", ctypes.c_char_p))


def _filter_system_calls() -> bool:
    """Refuses the system calls that no query needs; False where this machine's are not known."""
    machine = platform.machine()
    if machine not in _DENIED:
        return False
    code = _filter_code(machine)
    program = _Program(len(code) // 8, code)
    return int(_libc.prctl(_PR_SET_SECCOMP, _SECCOMP_MODE_FILTER, ctypes.byref(program))) == 0


def _filter_code(machine: str) -> bytes:
    """The filter in the kernel's packet-filter language: eight bytes an instruction."""
    load, equal, at_least, any_bit, answer = 0x20, 0x15, 0x35, 0x45, 0x06

    def step(code: int, value: int, if_true: int = 0, if_false: int = 0) -> bytes:
        return struct.pack("=HBBI", code, if_true, if_false, value)

    def refuse(number: int, how: int = _EPERM) -> list[bytes]:
        return [step(equal, number, 0, 1), step(answer, how)]

    steps = [
        step(load, 4),
        step(equal, _AUDIT_ARCH[machine], 1, 0),
        step(answer, _EPERM),
        step(load, 0),
    ]
    if machine == "x86_64":
        # The same calls by another number.
        steps += [step(at_least, _X32, 0, 1), step(answer, _EPERM)]
    for number in _DENIED[machine]:
        steps += refuse(number)
    # The C library takes the old call where the new one is not there; only that one's flags can
    # be looked at, and they say whether a thread is made or a process.
    steps += refuse(_CLONE3, _ENOSYS)
    steps += [
        step(equal, _CLONE[machine], 0, 3),
        step(load, 16),
        step(any_bit, _CLONE_THREAD, 1, 0),
        step(answer, _EPERM),
        step(answer, _ALLOW),
    ]
    return b"".join(steps)
