"""The screenshots of the training notebook's cells in images/: python -m tools.readme.screenshots.

Needs a Chromium on the PATH and the Python package playwright, besides requirements.txt. Shows the notebook
in JupyterLab, executes no cell, saves nothing, and keeps Jupyter's own files in a temporary folder.
"""

import contextlib
import json
import os
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

from emo.paths import PROJECT_ROOT

NOTEBOOK = "emo_classificator_train.ipynb"
SHOTS = {"google_param.png": "# @title Setup", "train_params.png": 'EXPERIMENT = "'}  # a text of the cell
WIDTH, HEIGHT = 1022, 2600  # CSS px of the window: the cells get 936 of the width and need no scrolling
MARGIN = 4  # CSS px, within the gap between two cells
SETTINGS = {
    "@jupyterlab/apputils-extension:notification": {"fetchNews": "false", "doNotDisturbMode": True},
    "@jupyterlab/apputils-extension:themes": {"overrides": {"code-font-size": "12px"}},
    "@jupyterlab/docmanager-extension:plugin": {"autosave": False},
    "@jupyterlab/notebook-extension:tracker": {
        "windowingMode": "none",  # every cell is in the page, in order
        "codeCellConfig": {"lineWrap": True},
    },
}
STYLE = "body { --jp-cell-prompt-width: 52px; }"  # no broader than "[ ]:" needs
# Stand in for the badges of Colab and Kaggle: the pictures need no internet and come out alike everywhere.
BADGE = """<svg xmlns="http://www.w3.org/2000/svg" width="117" height="20">
<rect width="117" height="20" rx="3" fill="#555"/>{logo}
<text x="33" y="14" fill="#fff" font-family="DejaVu Sans, Verdana, sans-serif" font-size="11"
 textLength="77" lengthAdjust="spacingAndGlyphs">Open in {name}</text></svg>"""
LOGOS = {
    "Colab": """<g fill="none" stroke-width="2.6"><circle cx="10.5" cy="10" r="4" stroke="#f9ab00"/>
<circle cx="18.5" cy="10" r="4" stroke="#e8710a"/></g>""",
    "Kaggle": """<path d="M11 4v12M19 5l-8 6.5L19 16" fill="none" stroke="#20beff" stroke-width="2.6"/>""",
}
QUIET = ["disable-quic", "no-first-run", "disable-background-networking", "disable-component-update"]
CHROMIUM_FLAGS = [f"--{flag}" for flag in ("no-sandbox", "disable-gpu", "disable-sync", *QUIET)]


@contextlib.contextmanager
def jupyterlab() -> Iterator[str]:
    """The address of a JupyterLab that serves the project as long as the context lasts."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    with tempfile.TemporaryDirectory() as folder:
        options = {
            "--ServerApp.port": port,
            "--ServerApp.ip": "127.0.0.1",
            "--ServerApp.port_retries": 0,
            "--IdentityProvider.token": "",
            "--FileCheckpoints.checkpoint_dir": folder,  # opening a notebook makes a checkpoint
            "--LanguageServerManager.autodetect": False,
        }
        command = [sys.executable, "-m", "jupyterlab", "--no-browser", "--allow-root"]
        command += [f"{name}={value}" for name, value in options.items()]
        overrides = Path(folder, "labconfig", "default_setting_overrides.json")
        overrides.parent.mkdir()
        overrides.write_text(json.dumps(SETTINGS), encoding="utf-8")
        places = ("JUPYTER_CONFIG_DIR", "JUPYTER_DATA_DIR", "JUPYTER_RUNTIME_DIR", "IPYTHONDIR")
        labs = ("JUPYTERLAB_SETTINGS_DIR", "JUPYTERLAB_WORKSPACES_DIR")
        environment = os.environ | dict.fromkeys(places + labs, folder)
        log = Path(folder, "server.log")
        with log.open("w") as output:
            streams = {"stdout": output, "stderr": subprocess.STDOUT}
            server = subprocess.Popen(command, cwd=PROJECT_ROOT, env=environment, **streams)
        try:
            while server.poll() is None:
                with contextlib.suppress(ConnectionRefusedError):
                    socket.create_connection(("127.0.0.1", port)).close()
                    break
                time.sleep(0.2)
            else:
                sys.exit(f"JupyterLab did not start:\n{log.read_text()}")
            yield f"http://127.0.0.1:{port}"
        finally:
            server.terminate()
            server.wait()


def settle(page) -> None:
    """Waits until the page has looked the same for a second: JupyterLab colours and lays out cells late."""
    before, now = None, page.screenshot()
    while before != now:
        page.wait_for_timeout(1000)
        before, now = now, page.screenshot()


def main() -> None:
    """Writes the pictures of SHOTS: each a code cell and the Markdown above it, two pixels per CSS px."""
    chromium = shutil.which("chromium") or shutil.which("chromium-browser")
    try:
        from playwright.sync_api import sync_playwright
    except ImportError:
        chromium = None
    if chromium is None:
        sys.exit("Install Chromium (apt install chromium) and playwright (pip install playwright) first.")
    with jupyterlab() as address, sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=chromium, args=CHROMIUM_FLAGS)
        page = browser.new_page(viewport={"width": WIDTH, "height": HEIGHT}, device_scale_factor=2)
        page.set_default_timeout(120_000)
        for place, name in (("colab-badge.svg", "Colab"), ("open-in-kaggle.svg", "Kaggle")):
            badge = {"body": BADGE.format(logo=LOGOS[name], name=name), "content_type": "image/svg+xml"}
            page.route(f"**/{place}", lambda route, _request, badge=badge: route.fulfill(**badge))
        page.goto(f"{address}/doc/tree/{NOTEBOOK}")
        page.add_style_tag(content=STYLE)
        page.locator(".jp-Spinner").wait_for(state="detached")
        page.get_by_alt_text("Open in Colab").wait_for()
        page.locator(".jp-CodeCell .cm-line span").first.wait_for()  # a coloured word
        settle(page)
        page.locator(".jp-Cell").nth(7).click()  # the selected cell is framed: let it be one further down
        page.mouse.move(0, 0)  # a heading under the pointer shows a button
        settle(page)
        for name, text in SHOTS.items():
            code = page.locator(".jp-CodeCell", has_text=text)
            code.locator("xpath=preceding-sibling::*[1]").scroll_into_view_if_needed()  # outputs are tall
            top, bottom = code.locator("xpath=preceding-sibling::*[1]").bounding_box(), code.bounding_box()
            left, upper = top["x"] - MARGIN, top["y"] - MARGIN
            width, height = top["width"] + 2 * MARGIN, bottom["y"] + bottom["height"] + MARGIN - upper
            clip = {"x": left, "y": upper, "width": width, "height": height}
            page.screenshot(path=PROJECT_ROOT / "images" / name, clip=clip)
            print(f"images/{name}")
        browser.close()


if __name__ == "__main__":
    main()
