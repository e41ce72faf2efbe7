"""Check every connection of FFmpeg for an rtsp source before the kernel makes it.

An rtsp server may redirect in its answer to OPTIONS or DESCRIBE, and a name may resolve differently the second time.
FFmpeg's rtsp has no option against redirections and no proxy support (`EgressProxy` covers http). So a seccomp filter
(https://docs.kernel.org/userspace-api/seccomp_filter.html, "Userspace Notification"; Linux 5.5 and newer) holds each
connect() until it is answered. It applies to one thread and to the threads and processes that this thread starts.

The kernel reads the address from FFmpeg's memory a second time, so a hostile program could change it after the check.
FFmpeg is misled, not hostile. A decoder that runs an attacker's code is not contained by this filter.
"""

from __future__ import annotations

import ctypes
import errno
import fcntl
import ipaddress
import logging
import os
import platform
import select
import struct
import sys
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import NamedTuple, TypeVar

from crowdperf.capture.network import url_policy
from crowdperf.runtime.metrics import Metrics
from crowdperf.runtime.tasks import TaskGuard

_PR_SET_NO_NEW_PRIVS = 38
_SET_MODE_FILTER = 1
_NEW_LISTENER, _SPEC_ALLOW = 1 << 3, 1 << 2
"""_SPEC_ALLOW keeps off a mitigation that older kernels enable with a filter and that slows all decoding."""
_LOAD, _EQUAL, _RETURN = 0x20, 0x15, 0x06
_ALLOW, _USER_NOTIFY = 0x7FFF0000, 0x7FC00000
_RECEIVE, _SEND = 0xC0502100, 0xC0182101
_CONTINUE = 1
_NOTICE_BYTES, _ARGUMENTS_AT = 80, 32
_INET_BYTES, _INET6_BYTES = 8, 24
_CALLER_GONE = (FileNotFoundError, InterruptedError, ProcessLookupError)
"""Errors of a caller that was killed meanwhile."""
THREAD_NAME = "connect-filter"
_DNS_PORT = 53
"""Always allowed: cloud name servers have addresses that are refused otherwise."""

T = TypeVar("T")
log = logging.getLogger(__name__)


class _SyscallAbi(NamedTuple):
    arch: int
    connect: int
    """Number of the system call, as `seccomp`."""
    seccomp: int


_SYSCALL_ABIS = {"x86_64": _SyscallAbi(0xC000003E, 42, 317), "aarch64": _SyscallAbi(0xC00000B7, 203, 277)}


class ConnectFilterUnavailable(Exception):
    """This system cannot filter connections; the message is the reason."""


class ConnectFilter:
    """Filters the connections of everything started through `run`, except those to the allowed hosts.

    Args:
        allowed_hosts: Hosts that are allowed in any case.
        metrics: Counts the failures.

    Raises:
        ConnectFilterUnavailable: Not Linux 5.5 on x86_64 or aarch64, or the system forbids it.
    """

    def __init__(self, allowed_hosts: tuple[str, ...], metrics: Metrics) -> None:
        machine = _SYSCALL_ABIS.get(platform.machine())
        if sys.platform != "linux" or machine is None or struct.calcsize("P") != 8:
            raise ConnectFilterUnavailable(f"not on {sys.platform} {platform.machine()}")
        self.refusal: url_policy.SourceError | None = None
        self._allowed_hosts = allowed_hosts
        self._guard = TaskGuard(metrics, passes=_CALLER_GONE)
        # One permanent thread: children die with the thread that started them (FfmpegProcess).
        self._executor = ThreadPoolExecutor(1, "filtered")
        try:
            listener = self._executor.submit(_install_filter, machine).result()
        except OSError as error:
            self._executor.shutdown(wait=False)
            raise ConnectFilterUnavailable(f"seccomp: {error.strerror}") from None
        threading.Thread(target=self._answer_requests, args=(listener,), name=THREAD_NAME, daemon=True).start()

    def run(self, start: Callable[[], T]) -> T:
        """Call `start` in the filtered thread; every thread and process that it starts is filtered too."""
        return self._executor.submit(start).result()

    def close(self) -> None:
        """End the filtered thread, and with it the processes that it started."""
        self._executor.shutdown(wait=False)

    def _answer_requests(self, listener: int) -> None:
        """Answer until no filtered thread is left."""
        poll = select.poll()
        poll.register(listener, select.POLLIN)
        try:
            while poll.poll()[0][1] & select.POLLIN:
                notice = bytearray(_NOTICE_BYTES)
                try:
                    fcntl.ioctl(listener, _RECEIVE, notice)
                    cookie, pid = struct.unpack_from("=QI", notice)
                    _, address, length = struct.unpack_from("=3Q", notice, _ARGUMENTS_AT)
                    check = partial(self._is_refused, pid, address, length)
                    # A check that fails refuses its connection, and not all later ones.
                    answer = (0, _CONTINUE) if self._guard.run(THREAD_NAME, check) is False else (-errno.EACCES, 0)
                    fcntl.ioctl(listener, _SEND, struct.pack("=QqiI", cookie, 0, *answer))
                except _CALLER_GONE:
                    continue
        finally:
            os.close(listener)

    def _is_refused(self, pid: int, address: int, length: int) -> bool:
        """Check whether the socket address in the memory of process `pid` is refused."""
        try:
            memory = os.open(f"/proc/{pid}/mem", os.O_RDONLY | os.O_CLOEXEC)
        except PermissionError:
            # For example Yama's ptrace_scope 2 or 3. The camera must work all the same.
            log.warning("a connection cannot be checked: the system forbids reading FFmpeg's memory")
            return False
        try:
            target = _parse_socket_address(os.pread(memory, min(length, 128), address))
        except OSError:
            # Invalid memory: the kernel refuses it as well.
            return False
        finally:
            os.close(memory)
        if target is None or target[1] == _DNS_PORT:
            return False
        try:
            url_policy.check_address(target[0], self._allowed_hosts)
        except url_policy.SourceError as error:
            self.refusal = error
            log.warning("refused a connection that the source led to: %s", error)
            return True
        return False


def _parse_socket_address(data: bytes) -> tuple[str, int] | None:
    """Parse address and port of a struct sockaddr; None for families other than IPv4 and IPv6."""
    family = int.from_bytes(data[:2], sys.byteorder)
    port = int.from_bytes(data[2:4], "big")
    if family == 2 and len(data) >= _INET_BYTES:
        return str(ipaddress.IPv4Address(data[4:8])), port
    if family == 10 and len(data) >= _INET6_BYTES:
        address = ipaddress.IPv6Address(data[8:24])
        return str(address.ipv4_mapped or address), port
    return None


def _install_filter(abi: _SyscallAbi) -> int:
    """Filter this thread; return the descriptor that receives its connect() calls, or raise OSError."""
    instructions = (
        *((_LOAD, 0, 0, 4), (_EQUAL, 0, 3, abi.arch)),
        *((_LOAD, 0, 0, 0), (_EQUAL, 0, 1, abi.connect)),
        *((_RETURN, 0, 0, _USER_NOTIFY), (_RETURN, 0, 0, _ALLOW)),
    )
    program = ctypes.create_string_buffer(b"".join(struct.pack("=HBBI", *step) for step in instructions))
    head = ctypes.create_string_buffer(struct.pack("@HP", len(instructions), ctypes.addressof(program)))
    libc = ctypes.CDLL(None, use_errno=True)
    # Without it the kernel accepts filters from root only. FFmpeg needs no privileges of its file.
    if libc.prctl(_PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0):
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))
    listener = int(libc.syscall(abi.seccomp, _SET_MODE_FILTER, _NEW_LISTENER | _SPEC_ALLOW, head))
    if listener < 0:
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))
    return listener
