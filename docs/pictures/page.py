"""The picture of the page: python docs/pictures/page.py joined.flac page.png, with the page built by `make page`.

joined.flac is what join_recordings.py makes. Needs Debian's Chromium and Playwright for Python.
"""

from __future__ import annotations

import shutil
import sys
import threading
from pathlib import Path

from playwright.sync_api import sync_playwright

sys.path.insert(0, str(Path(__file__).parents[2]))

from audioset_dcls.commands.page import page_folder, page_server

recording, target = Path(sys.argv[1]), sys.argv[2]
with page_server(page_folder()) as server, sync_playwright() as playwright:
    threading.Thread(target=server.serve_forever, daemon=True).start()
    browser = playwright.chromium.launch(executable_path=shutil.which("chromium"), args=["--no-sandbox"])
    page = browser.new_page(viewport={"width": 900, "height": 800})
    page.goto(f"http://127.0.0.1:{server.server_port}/")
    page.locator("#start").wait_for(timeout=60_000)
    page.set_input_files("#file", recording)
    page.locator("#name", has_text=recording.name).wait_for(timeout=60_000)
    page.locator("#work").wait_for(state="hidden", timeout=60_000)
    page.wait_for_timeout(500)  # drawing
    page.screenshot(path=target, full_page=True)
    server.shutdown()
