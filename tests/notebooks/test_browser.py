"""Notebook 00 as a user has it: JupyterLab in a real browser, a slider moved, a question typed.

Opt-in: `make test-browser`. Needs the extras `lab` and `browser` and a Chromium or Chrome on PATH
(or its path in QVID_BROWSER). The screenshots go to runs/browser.
"""

import os
import re
import shutil
import subprocess
import sys
import time
import urllib.request

import pytest

from qvid_utils.paths import NOTEBOOKS, ROOT, RUNS

pytest.importorskip("ipywidgets", reason="the extra `lab` is not installed")
pytest.importorskip("jupyterlab", reason="the extra `lab` is not installed")
playwright = pytest.importorskip(
    "playwright.sync_api", reason="the extra `browser` is not installed"
)

NAMES = ("chromium", "chromium-browser", "google-chrome")
BROWSER = os.environ.get("QVID_BROWSER") or next(filter(None, map(shutil.which, NAMES)), "")
FLAGS = ["--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run",
         "--disable-background-networking", "--disable-component-update",
         "--disable-sync"]  # fmt: skip
TOKEN = "qvid"
MINUTE = 60_000  # ms

if not BROWSER:
    pytest.skip(f"no browser on PATH ({', '.join(NAMES)})", allow_module_level=True)


@pytest.fixture(scope="module")
def lab(tmp_path_factory):
    """The address of a JupyterLab that serves a copy of notebook 00; `make lab`'s command."""
    folder = tmp_path_factory.mktemp("lab")
    shutil.copy(NOTEBOOKS / "00_start_here.ipynb", folder)
    own = {name: str(folder / "own" / name) for name in
           ("JUPYTER_CONFIG_DIR", "JUPYTERLAB_SETTINGS_DIR", "JUPYTERLAB_WORKSPACES_DIR",
            "JUPYTER_RUNTIME_DIR")}  # fmt: skip
    quiet = folder / "own" / "JUPYTERLAB_SETTINGS_DIR" / "@jupyterlab" / "apputils-extension"
    quiet.mkdir(parents=True)
    (quiet / "notification.jupyterlab-settings").write_text('{"fetchNews": "false"}')
    command = [sys.executable, "-m", "jupyterlab", "--notebook-dir", str(folder), "--no-browser",
               "--ip=127.0.0.1", "--port=8931", f"--IdentityProvider.token={TOKEN}",
               "--LabApp.check_for_updates_class=jupyterlab.NeverCheckForUpdate"]  # fmt: skip
    if os.geteuid() == 0:
        command.append("--allow-root")
    told = (folder / "server.log").open("w")
    server = subprocess.Popen(command, cwd=ROOT, env={**os.environ, **own}, stdout=told,
                              stderr=subprocess.STDOUT)  # fmt: skip
    try:
        yield _answering(server, folder / "server.log")
    finally:
        server.terminate()
        server.wait(timeout=30)


def _answering(server, log) -> str:
    for _ in range(240):
        found = re.search(r"(http://127\.0\.0\.1:\d+)/lab", log.read_text())
        if found and server.poll() is None:
            urllib.request.urlopen(f"{found[1]}/api?token={TOKEN}", timeout=30).close()
            return found[1]
        time.sleep(0.5)
    raise RuntimeError(f"JupyterLab did not start:\n{log.read_text()}")


@pytest.fixture
def page(lab, tmp_path):
    with playwright.sync_playwright() as driver:
        context = driver.chromium.launch_persistent_context(
            tmp_path / "profile", executable_path=BROWSER, headless=True, args=FLAGS,
            viewport={"width": 1500, "height": 1300},
        )  # fmt: skip
        page = context.pages[0] if context.pages else context.new_page()
        page.set_default_timeout(2 * MINUTE)
        page.goto(f"{lab}/lab/tree/00_start_here.ipynb?token={TOKEN}")
        yield page
        shot(page, "0_end")
        context.close()


def shot(page, name: str) -> None:
    folder = RUNS / "browser"
    folder.mkdir(parents=True, exist_ok=True)
    page.screenshot(path=folder / f"{name}.png")


def picture(page) -> bytes:
    """What the explorer shows, as the browser has it."""
    source = "async img => [...new Uint8Array(await (await fetch(img.src)).arrayBuffer())]"
    return bytes(page.locator("img.widget-image").evaluate(source))


def changed(page, before: bytes) -> bytes:
    """The picture once it is another one."""
    for _ in range(240):
        if (now := picture(page)) != before:
            return now
        page.wait_for_timeout(250)
    raise AssertionError(f"the picture stayed the same; the panel says {said(page)!r}")


def said(page) -> str:
    return page.locator(".widget-html-content span").inner_text()


def test_a_slider_and_a_question_change_the_picture(page):
    page.locator(".jp-RenderedMarkdown h1").first.wait_for()
    page.get_by_role("menuitem", name="Run", exact=True).click()
    page.get_by_role("menuitem", name="Run All Cells", exact=True).click()
    page.locator("img.widget-image").wait_for(timeout=5 * MINUTE)
    page.locator("img.widget-image").scroll_into_view_if_needed()
    page.wait_for_timeout(1000)
    shot(page, "1_after_run_all")
    first = picture(page)
    assert first.startswith(b"\x89PNG")

    slider = page.locator(".widget-slider", has_text="keep").first
    handle = slider.locator(".noUi-handle").bounding_box()
    x, y = handle["x"] + handle["width"] / 2, handle["y"] + handle["height"] / 2
    page.mouse.move(x, y)
    page.mouse.down()
    page.mouse.move(x + 60, y, steps=5)
    page.mouse.up()
    second = changed(page, first)
    assert int(slider.locator(".widget-readout").inner_text()) > 16
    assert re.match(r"\d\.\d\d s", said(page))
    shot(page, "2_slider_moved")

    page.locator(".widget-text", has_text="question").locator("input").fill("How many letters?")
    page.keyboard.press("Enter")
    changed(page, second)
    assert re.fullmatch(r"\d+\.\d\d s", said(page))
    shot(page, "3_question_typed")

    page.locator(".widget-text", has_text="question").locator("input").fill(" ")
    page.keyboard.press("Enter")
    page.get_by_text("the question is empty").wait_for()
    assert page.locator("[data-mime-type='application/vnd.jupyter.stderr']").count() == 0
    assert page.locator("[data-mime-type='application/vnd.jupyter.error']").count() == 0
