"""Several nodes on one Redis, and a Redis behind Sentinel."""

from __future__ import annotations

import json
import re
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from crowdperf.messaging.process_metrics import publish_snapshot as publish_metrics
from crowdperf.messaging.publisher import Publisher
from crowdperf.messaging.redis.client import OUTAGE, connect
from crowdperf.messaging.schema import AnyEvent, LineCrossed
from crowdperf.messaging.streams import EVENTS
from crowdperf.runtime.process_runtime import ProcessRuntime
from crowdperf.settings import process_config, worker_config
from crowdperf.settings.base import ConfigError
from crowdperf.settings.config import Config, Deployment, parse
from crowdperf.settings.environment import Environment, Paths
from crowdperf.storage.counts import decode_member
from crowdperf.supervision.embedded_redis import find_server_binary
from crowdperf.workers.housekeeping import Housekeeper
from crowdperf.workers.recorder import Recorder
from tests.conftest import ROOT, RedisServer, wait_until
from tests.support.ports import free_port

PATHS = Paths(Path("/tmp/crowdperf-test/var"))


def crossing(n: int, camera: str = "lobby") -> LineCrossed:
    return LineCrossed(
        id=f"{camera}:5:{n}:door:in:0",
        camera=camera,
        ts=1_800_000_000.0 + n,
        line="door",
        direction="in",
        class_name="person",
        track=n,
        epoch=5,
        sequence=n,
    )


def node(name: str, prefix: str = "") -> Config:
    redis = {"url": "redis://db:6379/0", "key_prefix": prefix}
    return parse(json.dumps({"node": name, "redis": redis}).encode())


def test_default_node_has_literal_keys_and_others_their_own() -> None:
    assert (node("local").key_prefix, node("north").key_prefix) == ("", "north:")
    assert node("north", "site:").key_prefix == "site:north:"
    assert process_config.build_web_config(Deployment(node("north"), PATHS)).key_prefix == "north:"


def test_no_configuration_or_command_forgets_the_node() -> None:
    forgetful = re.compile(r"redis\.key_prefix")
    found = [str(path) for path in (ROOT / "crowdperf").rglob("*.py") if forgetful.search(path.read_text())]
    assert found == [str(ROOT / "crowdperf" / "settings" / "config.py")]


def test_two_nodes_with_the_same_camera_share_nothing(redis_server: RedisServer) -> None:
    client = redis_server.client()
    for count, name in enumerate(("north", "south", "local"), 1):
        prefix = node(name).key_prefix
        publisher: Publisher[AnyEvent] = Publisher(redis_server.client(), EVENTS, prefix)
        for n in range(count):
            publisher.publish(crossing(n))
        recorder = Recorder(redis_server.client(), "worker-recorder-0", "UTC", prefix)
        recorder.start()
        assert recorder.step().added == count
        runtime = ProcessRuntime("worker-recorder-0", 0)
        publish_metrics(client, runtime, prefix)
        config = worker_config.build_worker_config(Deployment(node(name), PATHS, Environment()), "housekeeping", 0)
        Housekeeper(redis_server.client(), config, runtime).sweep(1_800_000_100.0, 0.0)
    keys = {key.decode() for key in client.scan_iter()}
    of_north = {key.removeprefix("north:") for key in keys if key.startswith("north:")}
    of_local = {key for key in keys if not key.startswith(("north:", "south:"))}
    assert of_north == of_local
    assert [client.zcard(name) for name in ("north:person_logs", "south:person_logs", "person_logs")] == [1, 2, 3]


@pytest.mark.parametrize(
    "url", ["redis+sentinel://h1:26379", "redis+sentinel://u:s3cret@h:x/m", "redis+sentinel://h/m?tls=1"]
)
def test_a_sentinel_address_that_cannot_be_is_one_clear_error(url: str) -> None:
    with pytest.raises(ConfigError, match=r"redis\.url.*Remedy") as caught:
        parse(json.dumps({"redis": {"url": url}}).encode())
    assert "s3cret" not in str(caught.value)


class Watched:
    """A master, its replica and a Sentinel."""

    def __init__(self, folder: Path) -> None:
        self.ports = [free_port(), free_port(), free_port()]
        self.processes: list[subprocess.Popen[bytes]] = []
        for index in (0, 1):
            replica = ["--replicaof", f"127.0.0.1 {self.ports[0]}"] if index else []
            self._start(folder, index, "--save", "", "--repl-diskless-sync-delay", "0", *replica)
        conf = folder / "sentinel.conf"
        conf.write_text(
            f"port {self.ports[2]}\nbind 127.0.0.1\ndir {folder}\n"
            f"sentinel monitor site 127.0.0.1 {self.ports[0]} 1\n"
            "sentinel down-after-milliseconds site 60000\nsentinel failover-timeout site 2000\n"
        )
        command = [find_server_binary(), str(conf), "--sentinel"]
        self.processes.append(subprocess.Popen(command, stdout=subprocess.DEVNULL))

    def _start(self, folder: Path, index: int, *words: str) -> None:
        own = folder / str(index)
        own.mkdir()
        command = [
            find_server_binary(),
            "--port",
            str(self.ports[index]),
            "--bind",
            "127.0.0.1",
            "--dir",
            str(own),
            *words,
        ]
        self.processes.append(subprocess.Popen(command, stdout=subprocess.DEVNULL))

    @property
    def url(self) -> str:
        return f"redis+sentinel://127.0.0.1:{self.ports[2]}/site/0"

    def replicated(self) -> bool:
        """Whether the Sentinel knows a replica that has everything."""
        try:
            info = connect(f"redis://127.0.0.1:{self.ports[1]}").info("replication")
            known = connect(f"redis://127.0.0.1:{self.ports[2]}").execute_command("SENTINEL", "REPLICAS", "site")
        except OUTAGE:
            return False
        return info.get("master_link_status") == "up" and len(known) == 1

    def be_impatient(self) -> None:
        """Half a second of silence is an end from now on; before, a busy machine would be taken for a dead master."""
        sentinel = connect(f"redis://127.0.0.1:{self.ports[2]}")
        sentinel.execute_command("SENTINEL", "SET", "site", "down-after-milliseconds", "500")


@pytest.fixture
def watched(tmp_path: Path) -> Iterator[Watched]:
    made = Watched(tmp_path)
    yield made
    for process in made.processes:
        process.kill()
        process.wait()


def test_the_recorder_follows_a_fail_over(watched: Watched) -> None:
    wait_until(watched.replicated, 30, "the replica")
    client = connect(watched.url)
    publisher: Publisher[AnyEvent] = Publisher(client, EVENTS)
    recorder = Recorder(connect(watched.url), "worker-recorder-0", "UTC")
    publisher.publish(crossing(1))
    recorder.start()
    assert recorder.step().added == 1
    assert client.wait(1, 60_000) == 1
    watched.be_impatient()
    watched.processes[0].kill()

    def recorded() -> bool:
        try:
            publisher.publish(crossing(2))
            recorder.start()
            recorder.step()
            return client.zcard("person_logs") == 2
        except OUTAGE:
            time.sleep(0.1)  # as the recorder's own loop waits
            return False

    wait_until(recorded, 30, "the new master takes crossings")
    assert {decode_member(raw).track for raw in client.zrange("person_logs", 0, -1)} == {1, 2}
