"""`crowdperf run`: the whole site in the foreground, under supervisord, until Ctrl-C, SIGTERM or a closed terminal."""

from __future__ import annotations

import ctypes
import fcntl
import os
import shlex
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path
from types import FrameType
from typing import TextIO

from crowdperf.accounts.setup import SetupSecret, link
from crowdperf.config import Config
from crowdperf.demo import cli as demo
from crowdperf.frames.ring import unlink_instance
from crowdperf.settings.base import ConfigError
from crowdperf.settings.environment import Environment
from crowdperf.settings.paths import Paths
from crowdperf.settings.site import base
from crowdperf.supervision import render
from crowdperf.supervision.control import Control

PR_SET_PDEATHSIG = 1
STOP_S = 60.0
SETUP_S = 90.0


def run(config: Config, env: Environment, paths: Paths, root: Path) -> int:
    """Start everything and stay until it ends; returns the exit status.

    Raises:
        ConfigError: it already runs, or the data folder cannot be used.
    """
    paths.check()
    for folder in (paths.sockets, paths.logs):
        folder.mkdir(parents=True, exist_ok=True)
    paths.sockets.chmod(0o700)
    lock = hold(paths)
    setup = SetupSecret(paths.sockets)
    setup.remove()
    render_demo(config, root)
    unlink_instance(str(paths.ring("")))
    render.record_environment(paths, os.environ)
    render.write(config, env, paths, root)
    supervisord = subprocess.Popen(
        [
            sys.executable,
            "-m",
            "supervisor.supervisord",
            "-c",
            str(root / "supervisord.conf"),
            "-n",
            "-s",
        ],
        # Its paths are relative.
        cwd=root,
        # A session of its own: Ctrl-C reaches only this process, which stops things in order.
        start_new_session=True,
        preexec_fn=_die_with_parent,
        stdin=subprocess.DEVNULL,
    )
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, _interrupt)
    welcome(config, paths, root)
    try:
        offer_setup(config, setup, supervisord)
        status = supervisord.wait()
        print(
            f"supervisord ended by itself with status {status}: see {paths.logs / 'supervisord.log'}", file=sys.stderr
        )
        return 1
    except KeyboardInterrupt:
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            signal.signal(number, signal.SIG_IGN)
        print("\nstopping …", flush=True)
        return 0
    finally:
        _stop(supervisord, paths)
        unlink_instance(str(paths.ring("")))
        lock.close()
        print("crowdperf has stopped.", flush=True)


def hold(paths: Paths) -> TextIO:
    """Lock the data folder for the life of the returned file; the kernel frees it however this process ends.

    Raises:
        ConfigError: another crowdperf runs with this data folder.
    """
    lock = (paths.sockets / "run.lock").open("a+")
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        lock.seek(0)
        owner = lock.read().strip() or "unknown"
        raise ConfigError(
            f"crowdperf already runs with the data folder {paths.data} (pid {owner}). Remedy: stop it there (Ctrl-C)."
        ) from None
    lock.truncate(0)
    lock.write(str(os.getpid()))
    lock.flush()
    return lock


def render_demo(config: Config, root: Path) -> None:
    """Render the demo site's clips where a camera plays one that is not there yet.

    A failure (no pictures, where ultralytics could not be installed) is reported by the renderer and leaves the other
    cameras alone.
    """
    folder = root / "var" / "demo"
    clips = [root / camera.url for camera in config.cameras if (root / camera.url).parent == folder]
    if not all(clip.exists() for clip in clips):
        print("rendering the demo site's cameras (once) …", flush=True)
        demo.main(["--out", str(folder), "--if-missing"])


def welcome(config: Config, paths: Paths, root: Path) -> None:
    """Say where the dashboard, the logs and the controls are, and warn of a port that somebody else holds."""
    print(f"crowdperf · {config.site.name} · {len([c for c in config.cameras if c.enabled])} cameras")
    print(f"  dashboard  {base(config.web)}/")
    print(f"  logs       {paths.logs.absolute()}")
    control = [str(root / ".venv/bin/supervisorctl"), "-c", str(root / "supervisord.conf"), "status"]
    print(f"  control    {shlex.join(control)}")
    print("  stop       Ctrl-C", flush=True)
    if port_in_use(config.web.host, config.web.port):
        print(
            f"warning: port {config.web.port} on {config.web.host} is in use by another program: counting runs, the "
            "dashboard does not. Remedy: free the port or set web.port in config.json, then supervisorctl update.",
            file=sys.stderr,
            flush=True,
        )


def offer_setup(config: Config, setup: SetupSecret, supervisord: subprocess.Popen[bytes]) -> None:
    """Say the one-time link of a site that has no account yet, once its web process has found that out."""
    deadline = time.monotonic() + SETUP_S
    while time.monotonic() < deadline and supervisord.poll() is None:
        secret = setup.read()
        if secret is not None:
            print(f"  accounts   nobody can sign in yet; make the administrator: {link(base(config.web), secret)}")
            print(flush=True)
            return
        time.sleep(0.25)


def port_in_use(host: str, port: int) -> bool:
    """Whether nobody could listen there now."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with socket.socket(family, socket.SOCK_STREAM) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host, port))
        except OSError:
            return True
    return False


def _stop(supervisord: subprocess.Popen[bytes], paths: Paths) -> None:
    """End supervisord and all it runs: in order where it answers, by signals where not."""
    if supervisord.poll() is not None:
        return
    try:
        Control(paths.supervisor_socket.absolute()).shutdown()
    except ConfigError:
        supervisord.terminate()
    try:
        supervisord.wait(STOP_S)
    except subprocess.TimeoutExpired:
        supervisord.kill()
        supervisord.wait()


def _interrupt(_number: int, _frame: FrameType | None) -> None:
    raise KeyboardInterrupt


def _die_with_parent() -> None:
    """In the child: get SIGTERM when the parent dies, even by kill -9."""
    ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGTERM)
