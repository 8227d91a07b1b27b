import base64
import io
import re
import shutil
import subprocess
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from .conftest import Command, Refusal

CHROMIUM = shutil.which("chromium") or shutil.which("google-chrome")
SECTIONS = ("Images", "Confusion", "Mistakes", "Kept", "Scores", "Attention", "Command")


class _Page(HTMLParser):
    """The pictures, addresses, texts and open elements of a page."""

    def __init__(self, file: Path) -> None:
        super().__init__()
        self.pictures: list[str] = []
        self.addresses: list[str] = []
        self.text, self.open = "", list[str]()
        self.feed(file.read_text())

    def handle_starttag(self, tag: str, attrs: Any) -> None:
        given = dict(attrs)
        self.addresses += [given[name] for name in ("src", "href") if name in given]
        if tag == "img":
            assert given["alt"]
            self.pictures.append(given["src"])
        if tag not in ("img", "meta", "link"):
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.text += data


def test_the_page_of_a_run_holds_all_and_needs_no_network(finished: Path) -> None:
    file = finished / "report.html"
    page = _Page(file)
    assert file.stat().st_size < 3e6
    assert page.open == []
    assert all(text in page.text for text in (*SECTIONS, "seed"))
    assert "backbone: vit_demo_patch8_32" in page.text
    assert re.search(r"Condensed to 36 of 120 \(per block [\d ]+\)", page.text)
    assert all(address.startswith("data:") for address in page.addresses)
    assert len(page.pictures) == len(SECTIONS)  # the curve, and none of the command
    for picture in page.pictures:
        kind, _, content = picture.partition(";base64,")
        if kind == "data:image/jpeg":
            assert np.asarray(Image.open(io.BytesIO(base64.b64decode(content)))).std() > 8
        else:
            assert b"<svg" in base64.b64decode(content)


@pytest.mark.skipif(CHROMIUM is None, reason="no Chromium")
def test_a_browser_shows_each_picture(finished: Path, tmp_path: Path) -> None:
    script = (
        "<script>document.title = JSON.stringify([...document.images].map("
        "i => [i.complete, i.naturalWidth, i.naturalHeight, i.clientWidth]))</script>"
    )
    copy = tmp_path / "page.html"
    text = (finished / "report.html").read_text()
    copy.write_text(text.replace("</body>", f"{script}</body>"))
    command = [
        str(CHROMIUM),
        "--headless",
        "--no-sandbox",
        "--disable-gpu",
        "--enable-logging=stderr",
    ]
    command += ["--virtual-time-budget=5000", "--dump-dom", copy.as_uri()]
    shown = subprocess.run(command, capture_output=True, text=True, timeout=120)
    assert "CONSOLE" not in shown.stderr
    title = re.search(r"<title>(\[.*?\])</title>", shown.stdout)
    assert title is not None
    sizes = re.findall(r"\[(true|false),(\d+),(\d+),(\d+)\]", title[1])
    assert len(sizes) == len(SECTIONS)
    assert all(min(int(n) for n in size[1:]) > 50 for size in sizes)


def test_a_test_adds_its_accuracy_and_draws_nothing_again(
    run: Path, command: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = _Page(run / "report.html").pictures
    command("test", run)
    after = _Page(run / "report.html")
    assert "test accuracy" in after.text
    assert after.pictures[1:] == before[1:]
    ended = command("report", run, run)
    assert ended.status == 0, ended.output
    for text in ("of the validation images", "Condensed to 36 of 120", "Try next:"):
        assert text in ended.output
    assert f"Adapter: {run}/adapter.safetensors" in ended.output


def test_a_lost_page_is_drawn_again(run: Path, command: Command) -> None:
    before = _Page(run / "report.html")
    (run / "report.html").unlink()
    assert command("report", run).status == 0
    assert len(_Page(run / "report.html").pictures) == len(before.pictures)


def test_a_run_that_is_not_finished_is_refused(run: Path, refusal: Refusal) -> None:
    (run / "results.json").unlink()
    assert "not finished yet" in refusal("report", run)
