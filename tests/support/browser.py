"""The dashboard in a real browser: headless Chromium through Playwright, and what must never happen in it."""

from __future__ import annotations

import contextlib
import shutil
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import pytest

from tests.conftest import missing

if TYPE_CHECKING:
    # The browser is an optional part: the module has to load without Playwright.
    from playwright.sync_api import Page

TIMEOUT_MS = 60_000


class Dashboard:
    """An open dashboard. `problems` collects console errors, failed requests, page errors and CSP violations."""

    def __init__(self, page: Page) -> None:
        self.page = page
        self.problems: list[str] = []
        page.set_default_timeout(TIMEOUT_MS)
        page.on("console", lambda message: self._note("console", message.text) if message.type == "error" else None)
        page.on("pageerror", lambda error: self._note("page error", str(error)))
        page.on("requestfailed", lambda request: self._note("request", f"{request.url} {request.failure}"))

    def _note(self, kind: str, text: str) -> None:
        # The browser's own word for a live stream that ends because the test closes the page.
        if "ERR_ABORTED" not in text:
            self.problems.append(f"{kind}: {text}")

    def open(self, url: str) -> None:
        """Open the overview and wait until the site is shown and the stream is live."""
        self.page.goto(url)
        self.wait_for("document.querySelector('.overview, .empty') !== null")
        self.wait_for("document.getElementById('connection').dataset.state === 'live'")

    def wait_for(self, expression: str, timeout_ms: float = TIMEOUT_MS) -> None:
        """Wait until a JavaScript expression is true."""
        # A boolean, not the node itself: a node that was handed over would be kept alive by its handle.
        self.page.wait_for_function(f"() => Boolean({expression})", timeout=timeout_ms)

    def read_total(self, kind: str, direction: str) -> int:
        """Return a number of the totals: kind is person or vehicle."""
        text = self.page.locator(f"[data-total='{kind}.{direction}']").inner_text()
        return int(text.replace(",", ""))

    def wait_for_total(self, kind: str, direction: str, value: int, timeout_ms: float = TIMEOUT_MS) -> None:
        """Wait until that total is `value`; it comes by push, the page is never loaded again."""
        selector = f"[data-total='{kind}.{direction}']"
        self.wait_for(
            f"document.querySelector(\"{selector}\")?.textContent.replaceAll(',', '') === '{value}'", timeout_ms
        )

    def wait_for_picture(self, camera: str, timeout_ms: float = TIMEOUT_MS) -> None:
        """Wait until the camera's tile shows a live picture: not blank, and newer ones follow."""
        selector = f"article[data-camera='{camera}'] canvas"
        self.wait_for(f'document.querySelector("{selector}")?.dataset.sequence', timeout_ms)
        first = self.page.locator(selector).get_attribute("data-sequence")
        self.wait_for(f"document.querySelector(\"{selector}\").dataset.sequence !== '{first}'", timeout_ms)
        assert self.count_shades(camera) > 20, f"the picture of {camera} is blank"

    def wait_for_boxes(self, camera: str, timeout_ms: float = TIMEOUT_MS) -> None:
        """Wait until the camera's tile shows a picture with boxes."""
        self.wait_for(
            f"document.querySelector(\"article[data-camera='{camera}'] canvas\")?.dataset.boxes > 0", timeout_ms
        )

    def count_shades(self, camera: str) -> int:
        """Return how many different colours the tile's canvas holds on a coarse grid."""
        shades: int = self.page.evaluate(
            """(camera) => {
                const canvas = document.querySelector(`article[data-camera='${camera}'] canvas`);
                const {data} = canvas.getContext('2d').getImageData(0, 0, canvas.width, canvas.height);
                const seen = new Set();
                for (let at = 0; at < data.length; at += 4 * 97) {
                    seen.add(data[at] << 16 | data[at + 1] << 8 | data[at + 2]);
                }
                return seen.size;
            }""",
            camera,
        )
        return shades

    def measure_overflow_px(self) -> int:
        """Return by how many pixels the page is wider than the window, after its layout has settled."""
        pixels: int = self.page.evaluate(
            """async () => {
                for (let frame = 0; frame < 3; frame += 1) await new Promise(requestAnimationFrame);
                return document.documentElement.scrollWidth - document.documentElement.clientWidth;
            }"""
        )
        return pixels

    def set_size(self, width: int, height: int) -> None:
        """Set the window's size."""
        self.page.set_viewport_size({"width": width, "height": height})

    def set_scheme(self, scheme: Literal["light", "dark"]) -> None:
        """Set the colours that the system prefers, and wait until the page has them."""
        self.page.emulate_media(color_scheme=scheme)
        self.wait_for(f"document.documentElement.dataset.theme === '{scheme}'")

    def screenshot(self, path: Path) -> Path:
        """Save what the window shows as PNG."""
        path.parent.mkdir(parents=True, exist_ok=True)
        self.page.screenshot(path=str(path))
        return path


def chromium() -> str:
    """Return the browser's path; skips, or fails in CI, where there is none."""
    found = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
    if not found:
        missing("chromium")
    return found


@contextlib.contextmanager
def dashboard(
    url: str,
    scheme: str = "light",
    width: int = 1440,
    height: int = 900,
    cookies: Sequence[Mapping[str, str]] = (),
    self_signed: bool = False,
    flags: Sequence[str] = (),
) -> Iterator[Dashboard]:
    """Chromium with the dashboard of `url` open; at the end nothing may have gone wrong in the page.

    `self_signed`: its certificate has no authority. `flags`: further ones of the browser's command line.
    """
    playwright = pytest.importorskip("playwright.sync_api")
    with playwright.sync_playwright() as driver:
        browser = driver.chromium.launch(executable_path=chromium(), args=["--no-sandbox", *flags])
        context = browser.new_context(
            viewport={"width": width, "height": height}, color_scheme=scheme, ignore_https_errors=self_signed
        )
        context.add_cookies(list(cookies))
        shown = Dashboard(context.new_page())
        try:
            shown.open(url)
            yield shown
        finally:
            browser.close()
        assert not shown.problems, shown.problems
