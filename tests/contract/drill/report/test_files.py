"""The folder of a report."""

from dataclasses import replace
from pathlib import Path

import pytest

from sidecar.drill.record import Record
from sidecar.drill.report import files, page
from sidecar.runtime.errors import ConfigError, PartMissing
from tests.support import drill_records


@pytest.fixture(scope="module")
def record() -> Record:
    return drill_records.record(drill_records.crash(rate=20), drill_records.skipped())


def test_a_report_is_three_files_from_one_record(record: Record, tmp_path: Path) -> None:
    folder = files.prepare(tmp_path / "a" / "report")
    files.write(folder, record)
    assert sorted(each.name for each in folder.iterdir()) == [
        "junit.xml",
        "record.json",
        "report.html",
    ]
    assert files.read(folder) == files.read(folder / files.RECORD) == record


def test_a_report_is_written_again_from_its_record(record: Record, tmp_path: Path) -> None:
    files.write(tmp_path, record)
    for name in (files.PAGE, files.JUNIT):
        (tmp_path / name).unlink()
    assert files.written_again(tmp_path) == record
    assert (tmp_path / files.PAGE).read_text().startswith("<!doctype html>")
    assert (tmp_path / files.JUNIT).read_text().startswith("<?xml")


def test_a_report_is_not_overwritten_by_another_drill(record: Record, tmp_path: Path) -> None:
    files.write(files.prepare(tmp_path), record)
    with pytest.raises(ConfigError, match="already"):
        files.prepare(tmp_path)


def test_a_drill_does_not_begin_without_the_libraries_of_its_page(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(page, "find_spec", lambda name: None)
    with pytest.raises(PartMissing, match="jinja2 and matplotlib"):
        files.prepare(tmp_path)


def test_what_cannot_be_read_or_made_is_an_error_that_names_it(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"none/record\.json|none: cannot be read"):
        files.read(tmp_path / "none")
    (tmp_path / "record.json").write_bytes(b"\xff")
    with pytest.raises(ConfigError, match=r"record\.json"):
        files.read(tmp_path)
    (tmp_path / "file").touch()
    with pytest.raises(ConfigError, match="cannot be made"):
        files.prepare(tmp_path / "file")


def test_the_exit_status_of_a_comparison_says_whether_anything_got_worse(
    record: Record, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    worse = replace(record, runs=(replace(record.runs[0], status="failed"), record.runs[1]))
    for name, each in (("old", record), ("new", worse)):
        files.write(files.prepare(tmp_path / name), each)
    assert files.compare(tmp_path / "old", tmp_path / "new") == 1
    assert files.compare(tmp_path / "new", tmp_path / "old") == 0
    assert "crash: worse: passed 1 of 1, then 0 of 1" in capsys.readouterr().out
