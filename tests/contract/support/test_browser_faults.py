"""The check of pages in a browser finds what it looks for."""

from pathlib import Path

from tests.support.browser import chromium

FAULTS = (Path(chromium.__file__).parent / "faults.js").read_text()
SPOILT = """<!doctype html><meta name="viewport" content="width=device-width, initial-scale=1">
<body style="background: #fff">
<p style="color: #949494">faint</p>
<p style="color: #fff8">white on white</p>
<div style="background: #000">
<b style="color: #444">dark on black</b> <i style="color: #ccc">good</i>
</div>
<p style="font-size: 9px">small</p>
<p style="display: none; color: #fff">hidden</p>
<figure><svg viewBox="0 0 300 60" width="300" height="60" font-size="20">
<g class="event-label"><text x="0" y="20">first</text></g>
<g class="event-label"><text x="20" y="25">second</text></g>
<g class="event-label"><text x="200" y="20">apart</text></g>
<g class="event-label"><text x="290" y="50" fill="#aaa">leaves</text></g>
</svg></figure>
<div style="width: 500px">wide</div>
"""


def test_every_kind_of_fault_is_found(tmp_path: Path) -> None:
    (tmp_path / "page.html").write_text(SPOILT)
    with chromium.showing(tmp_path) as tab:
        tab.open("page.html", 375)
        found = tab.run(FAULTS)
    faint = [each.split(": ")[1] for each in found["faint"]]
    assert faint == ["faint", "white on white", "dark on black", "leaves"]
    assert found["overlapping"] == ["first and second", "leaves leaves the picture"]
    assert [each.split(": ")[1] for each in found["small"]] == ["small"]
    assert "DIV" in [each.split()[0] for each in found["wide"]]


def test_a_page_has_no_network_and_what_it_asks_for_is_seen(tmp_path: Path) -> None:
    (tmp_path / "page.html").write_text('<img src="http://198.51.100.1/a.png"><p>text</p>')
    with chromium.showing(tmp_path) as tab:
        tab.open("page.html", 375)
        assert tab.requested == ["file:///site/page.html", "http://198.51.100.1/a.png"]
        assert tab.run("document.images[0].naturalWidth") == 0
