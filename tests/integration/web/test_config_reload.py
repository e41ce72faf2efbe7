"""The web process takes another configuration over while it runs: routes, pictures and streams go on with it."""

from __future__ import annotations

import asyncio
import copy
import json
import urllib.error
import urllib.request
from typing import Any

import pytest
from websockets.asyncio.client import connect

from crowdperf.settings import reload
from crowdperf.settings.config import Deployment
from crowdperf.settings.process_config import WebReloadable, build_web_config, get_reloadable
from tests.conftest import RedisServer, wait_until
from tests.integration.web.test_live import Listener, binary, live_url
from tests.support.browser import dashboard
from tests.support.synthetic import SyntheticSite
from tests.support.webserver import CONFIG, TIMEOUT_S, Served, site_config

YARD = {"id": "yard", "url": "rtsp://192.0.2.20/", "zones": [CONFIG["cameras"][1]["zones"][0]]}


def tell(server: Served, redis_server: RedisServer, cameras: list[dict[str, Any]]) -> None:
    """Write what `supervisorctl update` would, of a site with these cameras."""
    config = site_config(redis_server.url, server.port, {**CONFIG, "cameras": cameras})
    server.config = config
    reload.write_reload_file(
        server.paths.web_reload_file, get_reloadable(build_web_config(Deployment(config, server.paths)))
    )


def known(server: Served) -> set[str]:
    with urllib.request.urlopen(f"{server.url}/api/v1/cameras", timeout=TIMEOUT_S) as reply:
        return {row["id"] for row in json.load(reply)["cameras"]}


def snapshot(server: Served, camera: str) -> int:
    try:
        with urllib.request.urlopen(f"{server.url}/api/v1/cameras/{camera}/snapshot.jpg", timeout=TIMEOUT_S) as reply:
            return reply.status
    except urllib.error.HTTPError as error:
        return error.code


def test_a_new_camera_is_served_and_one_that_is_gone_is_not(server: Served, redis_server: RedisServer) -> None:
    listener = Listener(server.url)
    listener.until("occupancy")
    assert snapshot(server, "yard") == 404
    tell(server, redis_server, [*CONFIG["cameras"], YARD])
    assert listener.until("configuration")["data"] == {}
    assert known(server) == {"plaza", "lobby", "dock", "yard"}
    site = SyntheticSite(server.config, server.paths, redis_server.url)
    try:

        def seen() -> bool:
            # On a busy machine a frame may be too old before it is asked for.
            site.write_frame("yard", 0.0)
            return snapshot(server, "yard") == 200

        wait_until(seen, what="the new camera's picture")
        # Its zone is followed too, on the same connection.
        site.start()

        def followed() -> bool:
            return any(row["camera"] == "yard" for row in listener.until("occupancy")["data"]["zones"])

        wait_until(followed, what="the new camera's zone")
        tell(server, redis_server, CONFIG["cameras"])
        listener.until("configuration")
        assert snapshot(server, "yard") == 404
    finally:
        site.close()
        listener.close()


def test_live_pictures_follow(server: Served, redis_server: RedisServer, site: SyntheticSite) -> None:
    site.start()

    async def watch() -> None:
        async with connect(live_url(server)) as socket:

            async def subscribed(*cameras: str) -> list[str]:
                await socket.send(json.dumps({"subscribe": cameras}))
                while isinstance(text := await asyncio.wait_for(socket.recv(), 60), bytes):
                    pass
                return json.loads(text)["subscribed"]

            assert await subscribed("plaza", "lobby") == ["lobby", "plaza"]
            while (await binary(socket))[0]["state"] != "live":
                pass
            off = copy.deepcopy(CONFIG["cameras"])
            off[0]["enabled"] = False
            tell(server, redis_server, off)
            head, jpeg = await binary(socket)
            while head["camera"] != "plaza" or head["state"] != "down":
                head, jpeg = await binary(socket)
            assert not jpeg
            heads = [(await binary(socket))[0] for _ in range(5)]
            assert {head["camera"] for head in heads} == {"lobby"}, "the other goes on, this one has ended"
            tell(server, redis_server, CONFIG["cameras"])
            while "plaza" not in await subscribed("plaza", "lobby"):
                pass
            head, jpeg = await binary(socket)
            while head["camera"] != "plaza" or head["state"] != "live":
                head, jpeg = await binary(socket)
            assert jpeg

    async def bounded() -> None:
        await asyncio.wait_for(watch(), 120)

    asyncio.run(bounded())


def test_nothing_that_can_be_read_is_no_configuration(server: Served, redis_server: RedisServer) -> None:
    tell(server, redis_server, [*CONFIG["cameras"], YARD])
    wait_until(lambda: "yard" in known(server), what="the new camera")
    server.paths.web_reload_file.write_text('{"cameras": 5}')
    reload.write_reload_file(server.paths.web_reload_file.with_name("other.json"), WebReloadable())
    listener = Listener(server.url)
    tell(server, redis_server, CONFIG["cameras"])
    listener.until("configuration")
    assert "yard" not in known(server)
    listener.close()


@pytest.mark.browser
def test_open_page_shows_a_new_camera_unless_a_form_is_in_use(
    server: Served, redis_server: RedisServer, site: SyntheticSite
) -> None:
    site.start()
    with dashboard(server.url) as shown:
        shown.wait_for_picture("plaza")
        tell(server, redis_server, [*CONFIG["cameras"], YARD])
        shown.wait_for("document.querySelector('article[data-camera=yard]') !== null")
        shown.wait_for("document.getElementById('connection').dataset.state === 'live'")
        shown.page.evaluate(
            """() => {
                const form = document.createElement('form');
                form.dataset.unsaved = '';
                document.querySelector('main').append(form);
            }"""
        )
        with shown.page.expect_response("**/api/v1/cameras"):
            tell(server, redis_server, CONFIG["cameras"])
        shown.page.evaluate("location.hash = '#/history'")
        shown.wait_for("document.querySelector('.history') !== null")
        shown.page.evaluate("location.hash = '#/'")
        shown.wait_for("document.querySelector('article[data-camera=plaza]') !== null")
        shown.wait_for("document.querySelector('article[data-camera=yard]') === null")
