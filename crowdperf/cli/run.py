"""Run the whole site in the foreground until Ctrl-C, SIGTERM or a closed terminal: `crowdperf run`."""

from __future__ import annotations

import argparse
import contextlib
import fcntl
import os
import shlex
import signal
import socket
import stat
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from types import FrameType
from typing import TextIO

from crowdperf.accounts.credentials import SetupSecret, build_setup_link
from crowdperf.demo.scenes import SCENES
from crowdperf.frames.ring import RingError, unlink_instance
from crowdperf.frames.segment import open_folder
from crowdperf.messaging.redis.client import connect
from crowdperf.messaging.site_owner import RECORD_S, RENEW_S, SiteClaim, register_run
from crowdperf.settings.base import ConfigError
from crowdperf.settings.config import Config, Deployment, Installation
from crowdperf.settings.environment import Paths
from crowdperf.settings.site import build_dashboard_url
from crowdperf.supervision import process_tree, programs
from crowdperf.supervision.control import SupervisorClient

STOP_TIMEOUT_S = 60.0
SETUP_LINK_TIMEOUT_S = 90.0
STOP_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


def main(words: list[str], installation: Installation) -> int:
    """Run `crowdperf run`: start everything and stay until it ends."""
    argparse.ArgumentParser(prog="crowdperf run", description="Start the whole site.").parse_args(words)
    deployment = installation.load()
    paths = installation.paths
    paths.check_socket_length()
    with convert_folder_errors(paths):
        close_data_folder(paths)
        lock = lock_run_folder(paths)
    process_tree.adopt_orphans()
    with lock:
        try:
            _set_signal_handler(_raise_interrupt)
            setup = SetupSecret(paths.sockets)
            render_demo(deployment)
            with convert_folder_errors(paths):
                setup.remove()
                claim = _claim_redis(deployment)
                _prepare_ring_folder(paths)
                programs.record_environment(paths, os.environ)
                programs.write_include_file(deployment)
            try:
                status = run_supervisord(deployment, setup)
            finally:
                if claim is not None:
                    claim.release()
        except KeyboardInterrupt:
            status = 0
    print("crowdperf has stopped.", flush=True)
    return status


def run_supervisord(deployment: Deployment, setup: SetupSecret) -> int:
    """Run supervisord until it ends and return the exit status. No program is left then."""
    paths, root = deployment.paths, deployment.root
    supervisord: subprocess.Popen[bytes] | None = None
    try:
        supervisord = subprocess.Popen(
            [sys.executable, "-m", "supervisor.supervisord", "-c", str(root / "supervisord.conf"), "-n", "-s"],
            # Its paths are relative.
            cwd=root,
            # Its programs need UTF-8 too, when crowdperf.sh did not start this command.
            env={**os.environ, "PYTHONUTF8": "1"},
            # In a session of its own: Ctrl-C reaches only this process, which stops everything in order.
            start_new_session=True,
            preexec_fn=process_tree.end_with_parent,
            stdin=subprocess.DEVNULL,
        )
        print_welcome(deployment)
        _print_setup_link(deployment.config, setup, supervisord)
        status = process_tree.wait_for_child(supervisord)
        how = f"was killed by {signal.Signals(-status).name}" if status < 0 else f"ended by itself with status {status}"
        print(f"supervisord {how}: see {paths.logs / 'supervisord.log'}", file=sys.stderr, flush=True)
        return 1
    except KeyboardInterrupt:
        print("\nstopping …", flush=True)
        raise
    finally:
        _set_signal_handler(_ignore_signal)
        if supervisord is not None:
            _stop_supervisord(supervisord, paths)
        # The rings go after their last writer has ended.
        process_tree.terminate_descendants(STOP_TIMEOUT_S)
        unlink_instance(str(paths.get_ring_path("")))


def _claim_redis(deployment: Deployment) -> SiteClaim | None:
    """Claim an external Redis; wait until the record of a crashed installation would have ended.

    Raises:
        ConfigError: Another installation uses the same Redis and prefix.
    """
    if not deployment.config.redis.url:
        return None
    owner, prefix = register_run(deployment.paths.installation_file), deployment.config.key_prefix
    deadline = time.monotonic() + RECORD_S + RENEW_S

    def wait(seconds: float) -> bool:
        time.sleep(seconds)
        return time.monotonic() > deadline

    claim = SiteClaim(connect(deployment.redis_url), owner, prefix)
    other = claim.wait(wait)
    if other is not None:
        raise ConfigError(other.describe_conflict(prefix))
    return claim


def _prepare_ring_folder(paths: Paths) -> None:
    """Remove the rings that a killed site has left, and create their folder.

    Raises:
        ConfigError: The folder is not private.
    """
    unlink_instance(str(paths.get_ring_path("")))
    # Earlier versions had the rings beside each other, where other users can create files as well.
    unlink_instance(f"{paths.rings}.")
    try:
        open_folder(paths.rings)
    except RingError as error:
        raise ConfigError(str(error)) from None


def close_data_folder(paths: Paths) -> None:
    """Create the data folder and close it to other users: it holds logs, names and password hashes."""
    # Supervisord and all programs inherit it.
    os.umask(0o077)
    for folder in (paths.sockets, paths.logs):
        folder.mkdir(parents=True, exist_ok=True)
    status = paths.data.stat()
    # The volume of a container may belong to root: then only what lies in it is closed.
    if status.st_uid == os.geteuid() and stat.S_IMODE(status.st_mode) & 0o077:
        paths.data.chmod(0o700)
    paths.sockets.chmod(0o700)


@contextlib.contextmanager
def convert_folder_errors(paths: Paths) -> Iterator[None]:
    """Convert errors of writing into the data folder to ConfigError."""
    try:
        yield
    except OSError as error:
        raise ConfigError(
            f"the data folder {paths.data} cannot be used: {error}. Remedy: see that what this names belongs to this "
            "user (after a run as another one: chown -R), and that the disk has room and is not read-only."
        ) from None


def lock_run_folder(paths: Paths) -> TextIO:
    """Lock the data folder while the returned file is open. ConfigError: another crowdperf has it."""
    lock = (paths.sockets / "run.lock").open("a+", encoding="utf-8")
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


def render_demo(deployment: Deployment) -> None:
    """Render the demo site's clips that a camera plays and that are missing.

    The renderer reports a failure, such as missing pictures without ultralytics. Other cameras are not affected.
    """
    root = deployment.root
    folder = root / "var" / "demo"
    clips = [root / camera.url for camera in deployment.config.cameras if (root / camera.url).parent == folder]
    scenes = [clip for clip in clips if clip.stem in SCENES]
    # The truth is written last, when the clip is complete.
    if all(clip.exists() and clip.with_suffix(".truth.json").exists() for clip in scenes):
        return
    print("rendering the demo site's cameras (once) …", flush=True)
    try:
        # The renderers run in their own session: Ctrl-C reaches only this process, which ends them.
        subprocess.run(
            [sys.executable, "-m", "crowdperf", "demo", "--out", str(folder), "--if-missing"],
            # Python would warn of the leftovers of a killed renderer, which it removes itself.
            env={**os.environ, "PYTHONWARNINGS": "ignore:resource_tracker"},
            start_new_session=True,
            preexec_fn=process_tree.end_with_parent,
            stdin=subprocess.DEVNULL,
        )
    except KeyboardInterrupt:
        print("\nstopping; the demo site's cameras are rendered by the next start …", flush=True)
        process_tree.terminate_descendants(STOP_TIMEOUT_S)
        raise


def print_welcome(deployment: Deployment) -> None:
    """Print where dashboard, logs and controls are, and warn when the port is in use."""
    config, root = deployment.config, deployment.root
    print(f"crowdperf · {config.site.name} · {len([c for c in config.cameras if c.enabled])} cameras")
    print(f"  dashboard  {build_dashboard_url(config.web)}/")
    print(f"  logs       {deployment.paths.logs.absolute()}")
    control = [str(root / ".venv/bin/supervisorctl"), "-c", str(root / "supervisord.conf"), "status"]
    print(f"  control    {shlex.join(control)}")
    print("  stop       Ctrl-C", flush=True)
    if is_port_in_use(config.web.host, config.web.port):
        print(
            f"warning: port {config.web.port} on {config.web.host} is in use by another program: counting runs, the "
            "dashboard does not. Remedy: free the port or set web.port in config.json, then supervisorctl update.",
            file=sys.stderr,
            flush=True,
        )


def _print_setup_link(config: Config, setup: SetupSecret, supervisord: subprocess.Popen[bytes]) -> None:
    """Print the one-time link of a site without accounts, once its web process has created it."""
    deadline = time.monotonic() + SETUP_LINK_TIMEOUT_S
    while time.monotonic() < deadline and supervisord.poll() is None:
        secret = setup.read()
        if secret is not None:
            print(
                f"  accounts   nobody can sign in yet; make the administrator: "
                f"{build_setup_link(build_dashboard_url(config.web), secret)}"
            )
            print(flush=True)
            return
        time.sleep(0.25)


def is_port_in_use(host: str, port: int) -> bool:
    """Check whether the port is taken."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with socket.socket(family, socket.SOCK_STREAM) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host, port))
        except OSError:
            return True
    return False


def _stop_supervisord(supervisord: subprocess.Popen[bytes], paths: Paths) -> None:
    """Stop supervisord and its programs: in order where it answers, else by signals."""
    if supervisord.poll() is not None:
        return
    try:
        SupervisorClient(paths.supervisor_socket.absolute()).shutdown()
    except ConfigError:
        # It may be stopping already: a service manager may signal every process at once.
        supervisord.terminate()
    try:
        supervisord.wait(STOP_TIMEOUT_S)
    except subprocess.TimeoutExpired:
        supervisord.kill()
        supervisord.wait()


def _set_signal_handler(handler: Callable[[int, FrameType | None], None]) -> None:
    for number in STOP_SIGNALS:
        signal.signal(number, handler)


def _raise_interrupt(_number: int, _frame: FrameType | None) -> None:
    """Raise KeyboardInterrupt once; further signals are ignored."""
    _set_signal_handler(_ignore_signal)
    raise KeyboardInterrupt


def _ignore_signal(_number: int, _frame: FrameType | None) -> None:
    """Do nothing. With SIG_IGN, Python would report a pending signal as an error."""
