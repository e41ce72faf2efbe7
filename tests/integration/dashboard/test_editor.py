"""Lines, zones and cameras changed in a real browser, by mouse and keyboard, down to the configuration file."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from crowdperf.accounts.credentials import SetupSecret
from crowdperf.runtime.ffmpeg_binary import find_ffmpeg
from crowdperf.web import config_client
from tests.conftest import ROOT, RedisServer, wait_until
from tests.support.browser import Dashboard, dashboard
from tests.support.synthetic import SyntheticSite
from tests.support.webserver import CONFIG, TIMEOUT_S, Served, serving

pytestmark = pytest.mark.browser
PASSWORD = "correct horse battery"


@pytest.fixture
def config(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    file = tmp_path / "config.json"
    file.write_text(json.dumps({**CONFIG, "media_roots": [str(tmp_path)]}))
    monkeypatch.setenv("CROWDPERF_CONFIG", str(file))
    monkeypatch.setenv("CROWDPERF_DATA", str(tmp_path / "data"))
    return file


@pytest.fixture
def server(redis_server: RedisServer, tmp_path: Path, config: Path) -> Iterator[Served]:
    with serving(redis_server.url, tmp_path / "served") as served:
        yield served


@pytest.fixture
def shown(server: Served, redis_server: RedisServer) -> Iterator[Dashboard]:
    """Open a browser with a signed-in administrator at a camera's page with a live picture."""
    site = SyntheticSite(server.config, server.paths, redis_server.url)
    site.start()
    secret = SetupSecret(server.paths.sockets).create()
    try:
        with dashboard(server.url) as opened:
            opened.page.goto(f"{server.url}/setup/#{secret}")
            for field in ("name", "password", "again"):
                opened.page.fill(f"#{field}", "ada" if field == "name" else PASSWORD)
            opened.page.click("#submit")
            opened.wait_for("document.querySelector('.account-name') !== null")
            opened.page.goto(f"{server.url}/#/camera/plaza")
            opened.wait_for("document.querySelector('.stage canvas')?.dataset.sequence")
            yield opened
    finally:
        site.close()


def camera(config: Path, name: str = "plaza") -> dict[str, Any]:
    return next(row for row in json.loads(config.read_text())["cameras"] if row["id"] == name)


def click(shown: Dashboard, x: float, y: float) -> None:
    """Click the picture at a share of its width and height."""
    box = shown.page.locator(".editor").bounding_box()
    assert box is not None
    shown.page.mouse.click(box["x"] + x * box["width"], box["y"] + y * box["height"])


def finger(shown: Dashboard, *path: tuple[float, float]) -> None:
    """Drag a finger along points of the picture, as shares of its width and height, with real touches."""
    box = shown.page.locator(".editor").bounding_box()
    assert box is not None
    hand = shown.page.context.new_cdp_session(shown.page)
    for kind, (x, y) in zip(("touchStart", *("touchMove",) * (len(path) - 1)), path):
        point = {"x": box["x"] + x * box["width"], "y": box["y"] + y * box["height"]}
        hand.send("Input.dispatchTouchEvent", {"type": kind, "touchPoints": [point]})
    hand.send("Input.dispatchTouchEvent", {"type": "touchEnd", "touchPoints": []})
    hand.detach()


def save(shown: Dashboard) -> None:
    shown.page.locator(".save .primary").click()
    shown.wait_for("document.querySelector('.message').textContent.startsWith('Saved')")


def test_a_line_is_drawn_named_and_saved_by_mouse(shown: Dashboard, config: Path) -> None:
    shown.page.locator(".shapes button", has_text="Add line").click()
    click(shown, 0.25, 0.3)
    click(shown, 0.25, 0.9)
    shown.wait_for("document.querySelector('.verdict').textContent.includes('can count')")
    shown.page.keyboard.press("Control+a")
    shown.page.keyboard.type("South gate")
    shown.page.locator(".shape-form button", has_text="Swap").click()
    shown.page.locator(".shape-form button", has_text="Add bend").click()
    shown.screenshot(ROOT / "var" / "screenshots" / "editor.png")
    save(shown)
    gate, added = camera(config)["lines"]
    assert gate == CONFIG["cameras"][0]["lines"][0], "the other line is as it was"
    assert (added["name"], added["in_side"], added["id"]) == ("South gate", "negative", "line-2")
    assert [round(y, 1) for _, y in added["points"]] == [0.3, 0.6, 0.9]
    assert all(abs(x - 0.25) < 0.01 for x, _ in added["points"])


def test_line_that_cannot_count_is_refused_while_drawing(shown: Dashboard, config: Path) -> None:
    before = config.read_bytes()
    shown.page.locator(".shapes button", has_text="Add line").click()
    click(shown, 0.002, 0.05)
    click(shown, 0.002, 0.95)
    shown.wait_for("document.querySelector('.verdict').textContent.includes('never count')")
    shown.page.locator(".save .primary").click()
    shown.wait_for("document.querySelector('.message').textContent.startsWith('Not saved')")
    assert config.read_bytes() == before
    shown.page.locator(".save button", has_text="Discard").click()
    shown.wait_for("document.querySelectorAll('.editor .shape').length === 2")
    shown.problems = [text for text in shown.problems if "400" not in text]


def test_points_move_by_mouse_and_by_keyboard(shown: Dashboard, config: Path) -> None:
    shown.page.locator(".shape-item", has_text="Stage").click()
    handles = shown.page.locator(".handle")
    assert handles.count() == 4
    box = handles.nth(2).bounding_box()
    assert box is not None
    x, y = box["x"] + box["width"] / 2, box["y"] + box["height"] / 2
    stage = shown.page.locator(".editor").bounding_box()
    assert stage is not None
    shown.page.mouse.move(x, y)
    shown.page.mouse.down()
    shown.page.mouse.move(x + 0.1 * stage["width"], y - 0.2 * stage["height"], steps=5)
    shown.page.mouse.up()
    handles.nth(0).focus()
    shown.page.keyboard.press("Shift+ArrowRight")
    shown.page.keyboard.press("ArrowDown")
    handles.nth(3).focus()
    shown.page.keyboard.press("Delete")
    assert handles.count() == 3
    save(shown)
    corners = camera(config)["zones"][0]["polygon"]
    wanted = [[0.1, 0.505], [0.4, 0.5], [0.5, 0.75]]
    assert all(abs(a - b) < 0.01 for got, want in zip(corners, wanted) for a, b in zip(got, want)), corners
    assert camera(config)["zones"][0]["limit"] == 4, "what was not touched stays"


def test_a_line_and_a_zone_are_drawn_by_the_keyboard_alone(shown: Dashboard, config: Path) -> None:
    for kind in ("line", "zone"):
        shown.page.locator(".shapes button", has_text=f"Add {kind}").focus()
        shown.page.keyboard.press("Enter")
        shown.wait_for("document.querySelector('.hints .hint') !== null")
        shown.page.keyboard.press("Enter")
        shown.wait_for("document.querySelector('.hints .hint') === null")
        assert shown.page.evaluate("document.activeElement.tagName") == "INPUT", "its name comes next"
        shown.page.locator(".handle").first.focus()
        shown.page.keyboard.press("Shift+ArrowLeft")
    save(shown)
    line, zone = camera(config)["lines"][1], camera(config)["zones"][1]
    assert line["p1"][0] < 0.5
    assert line["p2"] == [0.5, 0.75]
    assert zone["polygon"][0][0] < 0.35
    assert zone["polygon"][1:] == [[0.65, 0.35], [0.65, 0.65], [0.35, 0.65]]


def test_a_line_is_drawn_and_moved_by_a_finger(shown: Dashboard, config: Path) -> None:
    shown.page.evaluate(
        "window.touched = []; addEventListener('pointerdown', (event) => window.touched.push(event.pointerType), true)"
    )
    shown.page.locator(".shapes button", has_text="Add line").click()
    finger(shown, (0.25, 0.3))
    finger(shown, (0.25, 0.9))
    shown.wait_for("document.querySelectorAll('.handle').length === 2")
    finger(shown, (0.25, 0.9), (0.3, 0.85), (0.32, 0.83), (0.35, 0.8), (0.35, 0.8))
    save(shown)
    added = camera(config)["lines"][1]
    ends = [added["p1"], added["p2"]]
    assert all(abs(a - b) < 0.02 for got, want in zip(ends, [[0.25, 0.3], [0.35, 0.8]]) for a, b in zip(got, want)), (
        ends
    )
    assert shown.page.evaluate("window.touched.filter((kind) => kind === 'touch').length") == 3


def test_a_zone_is_drawn_with_a_limit_and_a_line_removed(shown: Dashboard, config: Path) -> None:
    shown.page.locator(".shapes button", has_text="Add zone").click()
    for x, y in ((0.6, 0.5), (0.9, 0.5), (0.9, 0.9), (0.6, 0.9)):
        click(shown, x, y)
    shown.page.keyboard.press("Enter")
    shown.page.locator(".shape-form input[type=number]").fill("7")
    shown.page.locator(".shape-item", has_text="North gate").click()
    shown.page.locator(".shape-form button", has_text="Delete").click()
    save(shown)
    saved = camera(config)
    assert saved["lines"] == []
    assert (saved["zones"][1]["limit"], len(saved["zones"][1]["polygon"])) == (7, 4)
    shown.page.reload()
    shown.wait_for("document.querySelectorAll('.shape-item').length === 2")


def test_a_camera_is_tried_then_added_then_removed(
    shown: Dashboard, config: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # A busy machine may take longer to start Python than an operator is to wait.
    monkeypatch.setattr(config_client, "PROBE_TIMEOUT_S", TIMEOUT_S)
    source = ("-f", "lavfi", "-i", "testsrc=size=320x180:rate=10:duration=1")
    subprocess.run([find_ffmpeg(), "-loglevel", "error", *source, str(tmp_path / "clip.mp4")], check=True)
    shown.page.evaluate("location.hash = '#/add'")
    form = shown.page.locator(".source-form")
    form.locator("input").nth(0).fill("Back door")
    form.locator("input").nth(1).fill("missing.mp4")
    form.locator("button", has_text="Try it").click()
    shown.wait_for("document.querySelector('.source-form .verdict').textContent.includes('does not exist')")
    form.locator("input").nth(1).fill("clip.mp4")
    form.locator("button", has_text="Try it").click()
    shown.wait_for("document.querySelector('.source-form .verdict').textContent.includes('320×180')")
    assert shown.page.locator(".tried canvas").get_attribute("width") == "320"
    form.locator("button", has_text="Add").click()
    wait_until(lambda: "back-door" in config.read_text(), what="the camera in the file")
    assert camera(config, "back-door") == {"id": "back-door", "name": "Back door", "url": "clip.mp4"}
    shown.page.goto("about:blank")
    shown.problems = [text for text in shown.problems if "422" not in text]
