"""System calls of Linux that Python does not offer, as far as building a sandbox needs them."""

import ctypes
import errno
import os
from pathlib import Path
from typing import Any

NEW_MOUNTS, NEW_HOSTNAME, NEW_IPC = 0x00020000, 0x04000000, 0x08000000
NEW_USER, NEW_PIDS, NEW_NETWORK, NEW_CGROUP = 0x10000000, 0x20000000, 0x40000000, 0x02000000

NO_WRITING, NO_SETUID, NO_DEVICES, NO_RUNNING = 1, 2, 4, 8
"""Attributes of a mount, as mount_setattr(2) takes them."""

_BIND, _RECURSIVE, _PRIVATE, _DETACH = 0x1000, 0x4000, 0x40000, 2
_HERE, _RECURSIVE_PATH = -100, 0x8000
_DEATH_SIGNAL, _DUMPABLE, _SECCOMP, _DROP_BOUNDING, _NO_NEW_PRIVILEGES, _AMBIENT = 1, 4, 22, 24, 38, 47
_MOUNT_ATTRIBUTES = 442  # the same number on every architecture, like all calls since Linux 5.1
_CAPABILITIES = 64

_NUMBERS = {
    "x86_64": {
        "pivot_root": 155,
        # memory that belongs to no process, so that nobody would count it
        "shmget": 29, "semget": 64, "msgget": 68, "mq_open": 240, "memfd_create": 319, "memfd_secret": 447,
        # other processes
        "ptrace": 101, "process_vm_readv": 310, "process_vm_writev": 311,
        # large parts of the kernel that no program under test needs
        "add_key": 248, "request_key": 249, "keyctl": 250, "perf_event_open": 298, "bpf": 321, "userfaultfd": 323,
        "io_uring_setup": 425,
    },
    "aarch64": {
        "pivot_root": 41,
        "shmget": 194, "semget": 190, "msgget": 186, "mq_open": 180, "memfd_create": 279, "memfd_secret": 447,
        "ptrace": 117, "process_vm_readv": 270, "process_vm_writev": 271,
        "add_key": 217, "request_key": 218, "keyctl": 219, "perf_event_open": 241, "bpf": 280, "userfaultfd": 282,
        "io_uring_setup": 425,
    },
}  # fmt: skip
_AUDIT_ARCHITECTURE = {"x86_64": 0xC000003E, "aarch64": 0xC00000B7}
MACHINES = tuple(_NUMBERS)
"""Processors whose numbers of system calls are known here."""

_LIBRARY = ctypes.CDLL(None, use_errno=True)


def unshare(flags: int) -> None:
    """Move this process into new namespaces (NEW_PIDS: its children)."""
    _call("unshare", ctypes.c_int(flags))


def mount(kind: str, target: Path, options: str = "") -> None:
    """Mount a file system that needs no device."""
    _call("mount", kind.encode(), bytes(target), kind.encode(), ctypes.c_ulong(0), options.encode())


def keep_mounts_private() -> None:
    """Let no mount made from here on be seen in the namespace that this one was copied from."""
    _call("mount", b"none", b"/", None, ctypes.c_ulong(_RECURSIVE | _PRIVATE), None)


def bind(source: Path, target: Path, attributes: int) -> None:
    """Show a file or folder, with what is mounted below it, at a second place with some rights taken away."""
    _call("mount", bytes(source), bytes(target), None, ctypes.c_ulong(_BIND | _RECURSIVE), None)
    restrict_mount(target, attributes, recursive=True)


def restrict_mount(path: Path, attributes: int, recursive: bool = False) -> None:
    """Take rights away from a mount."""
    order = (ctypes.c_uint64 * 4)(attributes, 0, 0, 0)
    flags = _RECURSIVE_PATH if recursive else 0
    _call("syscall", _MOUNT_ATTRIBUTES, _HERE, bytes(path), flags, ctypes.byref(order), ctypes.sizeof(order))


def pivot_root(root: Path, old: Path) -> None:
    """Make `root` the root of all paths; what was the root is then at `old`."""
    _call("syscall", _NUMBERS[os.uname().machine]["pivot_root"], bytes(root), bytes(old))


def unmount(path: Path) -> None:
    """Take a mount and all below it out of the tree."""
    _call("umount2", bytes(path), _DETACH)


def set_hostname(name: str) -> None:
    """Name the machine, in this process's namespace."""
    _call("sethostname", name.encode(), ctypes.c_size_t(len(name)))


def die_with_parent() -> None:
    """Let the kernel kill this process when the thread that started it ends."""
    _control(_DEATH_SIGNAL, 9)


def hide_memory() -> None:
    """Let no process without privileges read or trace this one."""
    _control(_DUMPABLE, 0)


def bound_capabilities() -> None:
    """Let no program that this process may start have any privilege; what it has itself it keeps for now."""
    for capability in range(_CAPABILITIES):
        try:
            _control(_DROP_BOUNDING, capability)
        except OSError as error:
            if error.errno != errno.EINVAL:
                raise
            break  # the kernel knows no more


def drop_capabilities() -> None:
    """Give up every privilege for good."""
    _control(_AMBIENT, 4)
    header = (ctypes.c_uint32 * 2)(0x20080522, 0)
    _call("capset", ctypes.byref(header), ctypes.byref((ctypes.c_uint32 * 6)()))
    _control(_NO_NEW_PRIVILEGES, 1)


class _Instruction(ctypes.Structure):
    _fields_ = (
        ("code", ctypes.c_uint16),
        ("if_true", ctypes.c_uint8),
        ("if_false", ctypes.c_uint8),
        ("value", ctypes.c_uint32),
    )


class _Filter(ctypes.Structure):
    _fields_ = (("length", ctypes.c_uint16), ("instructions", ctypes.POINTER(_Instruction)))


def forbid_calls() -> None:
    """Let the calls of the table above fail with "not permitted", for this process and all that it starts.

    The process must have given up its privileges before. A call by the numbers of another architecture (32 bit, x32)
    would slip through the table: the first kills the process, the second fails.
    """
    machine = os.uname().machine
    load, equal, at_least, give = 0x20, 0x15, 0x35, 0x06
    numbers = list(_NUMBERS[machine].values())
    refuse = len(numbers) + 1  # instructions from the first comparison of numbers to the refusal
    lines = [
        (load, 0, 0, 4),
        (equal, 1, 0, _AUDIT_ARCHITECTURE[machine]),
        (give, 0, 0, 0x80000000),
        (load, 0, 0, 0),
        (at_least, refuse, 0, 0x40000000),
        *((equal, refuse - 1 - place, 0, number) for place, number in enumerate(numbers)),
        (give, 0, 0, 0x7FFF0000),
        (give, 0, 0, 0x00050000 | 1),
    ]
    instructions = (_Instruction * len(lines))(*(_Instruction(*line) for line in lines))
    _control(_SECCOMP, 2, ctypes.byref(_Filter(len(lines), instructions)))


def _control(option: int, *values: Any) -> None:
    padded = [ctypes.c_ulong(value) if isinstance(value, int) else value for value in values]
    _call("prctl", ctypes.c_int(option), *padded, *[ctypes.c_ulong(0)] * (4 - len(padded)))


def _call(name: str, *values: Any) -> None:
    plain = [ctypes.c_long(value) if isinstance(value, int) else value for value in values]
    if getattr(_LIBRARY, name)(*plain) == -1:
        number = ctypes.get_errno()
        raise OSError(number, f"{name}: {os.strerror(number)}")
