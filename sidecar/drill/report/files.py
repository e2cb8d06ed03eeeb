"""The folder of a report: the record as JSON, as JUnit XML, and as a page.

Acts: time.
"""

import time
from pathlib import Path
from typing import Final

from sidecar.drill.record import Record, dumps, loads
from sidecar.drill.report import comparison, junit, page, text
from sidecar.runtime import atomic_file
from sidecar.runtime.errors import ConfigError, unreadable, unwritable, words

RECORD: Final = "record.json"
JUNIT: Final = "junit.xml"
PAGE: Final = "report.html"
_READABLE: Final = 0o644  # a report is for everyone


def prepare(folder: Path | None) -> Path:
    """The folder of a new report, which exists then; by default `drill-` and the time, here.

    Raises:
        PartMissing: the libraries of the page are missing.
        ConfigError: it has a report already, or cannot be made.
        NoRoom: the disk is full.
    """
    page.require()
    made = folder or Path(time.strftime("drill-%Y%m%d-%H%M%S"))
    if (made / RECORD).exists():
        raise ConfigError(f"{made / RECORD}: a report is there already; expected another folder")
    try:
        made.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise unwritable(error)(f"{made}: cannot be made: {words(error)}") from error
    return made


def write(folder: Path, record: Record) -> None:
    """Write all files of a report, each atomically, the record first.

    Raises:
        PartMissing: the libraries of the page are missing; the other files are written.
        ConfigError, NoRoom: a file cannot be written.
    """
    _put(folder / RECORD, dumps(record))
    _put(folder / JUNIT, junit.render(record))
    _put(folder / PAGE, page.render(record))


def read(place: Path) -> Record:
    """The record in a report's folder, or in a file.

    Raises:
        ConfigError: it is missing, unreadable, or no record.
    """
    path = place / RECORD if place.is_dir() else place
    try:
        content = path.read_text(encoding="utf-8")
    except (OSError, ValueError) as error:
        raise unreadable(error)(f"{path}: cannot be read: {words(error)}") from error
    return loads(content, str(path))


def written_again(folder: Path) -> Record:
    """The record in a folder, whose other files are written again.

    Raises:
        ConfigError: as for `read` and `write`.
        NoRoom: the disk is full.
    """
    record = read(folder)
    write(folder if folder.is_dir() else folder.parent, record)
    return record


def show(record: Record, wide: bool = False) -> None:
    """Print a record."""
    text.print_record(record, wide)


def compare(old: Path, new: Path, wide: bool = False, everything: bool = False) -> int:
    """Print what changed between two reports; returns the exit status, 1 if anything got worse.

    Raises:
        ConfigError: as for `read`.
    """
    compared = comparison.compare(read(old), read(new))
    text.print_comparison(compared, wide, everything)
    return int(compared.worse)


def _put(path: Path, content: str) -> None:
    try:
        atomic_file.replace(path, content.encode(errors="backslashreplace"))
        path.chmod(_READABLE)
    except OSError as error:
        raise unwritable(error)(f"{path}: cannot be written: {words(error)}") from error
