"""Every connection that FFmpeg makes for an rtsp source is looked at before the kernel makes it.

An rtsp server may answer OPTIONS or DESCRIBE with a redirection, and a name server may change its mind after we have
asked it. FFmpeg's rtsp has neither an option against the first nor a proxy (as `guard` is for http), so the kernel asks
us: a seccomp filter (https://docs.kernel.org/userspace-api/seccomp_filter.html, "Userspace Notification"; Linux 5.5 and
newer) holds each connect() until it is answered. It belongs to one thread, and to the threads and processes that this
one starts; nothing else in the process notices it.

The address is read from the memory of who asks and then used by the kernel, so a program that wants to deceive could
change it in between. FFmpeg is misled, not hostile; a broken decoder that runs an attacker's code is not held by this.
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
from typing import NamedTuple, TypeVar

from crowdperf.capture.network import url_policy

_PR_SET_NO_NEW_PRIVS = 38
_SET_MODE_FILTER = 1
_NEW_LISTENER, _SPEC_ALLOW = 1 << 3, 1 << 2
"""The second keeps a mitigation off that older kernels switch on with a filter, which slows all of a decoder's work."""
_LOAD, _EQUAL, _RETURN = 0x20, 0x15, 0x06
_ALLOW, _USER_NOTIFY = 0x7FFF0000, 0x7FC00000
_RECEIVE, _SEND = 0xC0502100, 0xC0182101
_CONTINUE = 1
_NOTICE_BYTES, _ARGUMENTS_AT = 80, 32
_INET_BYTES, _INET6_BYTES = 8, 24
_DNS_PORT = 53
"""Let through anywhere: the name servers of clouds have addresses that are otherwise refused."""

T = TypeVar("T")
log = logging.getLogger(__name__)


class _SyscallAbi(NamedTuple):
    arch: int
    connect: int
    """Numbers of the system calls."""
    seccomp: int


_SYSCALL_ABIS = {"x86_64": _SyscallAbi(0xC000003E, 42, 317), "aarch64": _SyscallAbi(0xC00000B7, 203, 277)}


class ConnectFilterUnavailable(Exception):
    """This system does not let connections be watched; the message is the reason."""


class ConnectFilter:
    """Looks at the connections of what is started through `run`.

    Args:
        allowed_hosts: hosts that are let through although they would be refused.

    Raises:
        WatchUnavailable: another system than Linux 5.5 on x86_64 or aarch64, or one that forbids it.
    """

    def __init__(self, allowed_hosts: tuple[str, ...]) -> None:
        machine = _SYSCALL_ABIS.get(platform.machine())
        if sys.platform != "linux" or machine is None or struct.calcsize("P") != 8:
            raise ConnectFilterUnavailable(f"not on {sys.platform} {platform.machine()}")
        self.refusal: url_policy.SourceError | None = None
        """The last connection that was refused."""
        self._allowed_hosts = allowed_hosts
        # One thread, and it stays: children die with the thread that started them (FfmpegChild).
        self._executor = ThreadPoolExecutor(1, "watched")
        try:
            listener = self._executor.submit(_install_filter, machine).result()
        except OSError as error:
            self._executor.shutdown(wait=False)
            raise ConnectFilterUnavailable(f"seccomp: {error.strerror}") from None
        threading.Thread(target=self._answer_requests, args=(listener,), name="watch", daemon=True).start()

    def run(self, start: Callable[[], T]) -> T:
        """Call `start` in the watched thread: every thread and process that it starts is watched as well."""
        return self._executor.submit(start).result()

    def close(self) -> None:
        """End the watched thread, and with it the processes that it started."""
        self._executor.shutdown(wait=False)

    def _answer_requests(self, listener: int) -> None:
        """Answer until nobody is left who could ask."""
        poll = select.poll()
        poll.register(listener, select.POLLIN)
        try:
            while poll.poll()[0][1] & select.POLLIN:
                notice = bytearray(_NOTICE_BYTES)
                try:
                    fcntl.ioctl(listener, _RECEIVE, notice)
                    cookie, pid = struct.unpack_from("=QI", notice)
                    _, address, length = struct.unpack_from("=3Q", notice, _ARGUMENTS_AT)
                    refused = self._is_refused(pid, address, length)
                    answer = (-errno.EACCES, 0) if refused else (0, _CONTINUE)
                    fcntl.ioctl(listener, _SEND, struct.pack("=QqiI", cookie, 0, *answer))
                except (FileNotFoundError, InterruptedError, ProcessLookupError):
                    # Who asked has been killed meanwhile.
                    continue
        finally:
            os.close(listener)

    def _is_refused(self, pid: int, address: int, length: int) -> bool:
        """Whether the socket address in the memory of `pid` is one that may not be connected to."""
        try:
            memory = os.open(f"/proc/{pid}/mem", os.O_RDONLY | os.O_CLOEXEC)
        except PermissionError:
            # Yama's ptrace_scope 2 or 3, for one. A camera is not to stay dark for it.
            log.warning("a connection cannot be looked at: reading FFmpeg's memory is forbidden on this system")
            return False
        try:
            place = _parse_socket_address(os.pread(memory, min(length, 128), address))
        except OSError:
            # No such memory: the kernel will refuse it as well.
            return False
        finally:
            os.close(memory)
        if place is None or place[1] == _DNS_PORT:
            return False
        try:
            url_policy.check_address(place[0], self._allowed_hosts)
        except url_policy.SourceError as error:
            self.refusal = error
            log.warning("a connection that the source led to was refused: %s", error)
            return True
        return False


def _parse_socket_address(data: bytes) -> tuple[str, int] | None:
    """Address and port of a struct sockaddr; None for other families than IPv4 and IPv6."""
    family = int.from_bytes(data[:2], sys.byteorder)
    port = int.from_bytes(data[2:4], "big")
    if family == 2 and len(data) >= _INET_BYTES:
        return str(ipaddress.IPv4Address(data[4:8])), port
    if family == 10 and len(data) >= _INET6_BYTES:
        address = ipaddress.IPv6Address(data[8:24])
        return str(address.ipv4_mapped or address), port
    return None


def _install_filter(abi: _SyscallAbi) -> int:
    """Have every connect() of this thread, and of what it starts, held until it is answered on the returned descriptor.

    Raises:
        OSError: the kernel does not do that.
    """
    steps = (
        *((_LOAD, 0, 0, 4), (_EQUAL, 0, 3, abi.arch)),
        *((_LOAD, 0, 0, 0), (_EQUAL, 0, 1, abi.connect)),
        *((_RETURN, 0, 0, _USER_NOTIFY), (_RETURN, 0, 0, _ALLOW)),
    )
    program = ctypes.create_string_buffer(b"".join(struct.pack("=HBBI", *step) for step in steps))
    head = ctypes.create_string_buffer(struct.pack("@HP", len(steps), ctypes.addressof(program)))
    libc = ctypes.CDLL(None, use_errno=True)
    # Without it the kernel takes filters from root alone. FFmpeg needs no privileges that its file would give it.
    if libc.prctl(_PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0):
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))
    listener = int(libc.syscall(abi.seccomp, _SET_MODE_FILTER, _NEW_LISTENER | _SPEC_ALLOW, head))
    if listener < 0:
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))
    return listener
