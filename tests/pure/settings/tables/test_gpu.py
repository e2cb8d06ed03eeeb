import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from sidecar.health.gpu import HARMLESS_XIDS, Floor, GpuRules
from sidecar.settings.tables.gpu import GpuSettings, parse_bytes, parse_floor


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (0, 0),
        (1024, 1024),
        ("512B", 512),
        ("2GiB", 2 * 2**30),
        (" 1.5 GB ", 1_500_000_000),
        ("1kB", 1000),
        ("1KiB", 1024),
        ("1TiB", 2**40),
    ],
)
def test_sizes(text: object, expected: int) -> None:
    assert parse_bytes(text) == expected


@pytest.mark.parametrize(
    "text", ["", "2", "2G", "-1GiB", "9" * 9999 + "B", "2 gib", "5%", True, 1.5, -1, None, []]
)
def test_an_invalid_size_is_refused(text: object) -> None:
    with pytest.raises(ValueError, match='expected a size such as "512MiB" or "2GiB"'):
        parse_bytes(text)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("5%", Floor(5, percent=True)),
        ("0.5 %", Floor(0.5, percent=True)),
        ("2GiB", Floor(2 * 2**30)),
        (1000, Floor(1000)),
    ],
)
def test_floors(text: object, expected: Floor) -> None:
    assert parse_floor(text) == expected


@given(st.one_of(st.integers(0, 2**50), st.integers(0, 100).map(lambda percent: f"{percent}%")))
def test_a_floor_is_printed_as_it_may_be_written(value: object) -> None:
    floor = parse_floor(value)
    assert parse_floor(str(floor)) == floor


@pytest.mark.parametrize("text", ["101%", "-5%", "%", "five"])
def test_an_invalid_floor_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="expected"):
        parse_floor(text)


def test_by_default_nothing_is_required_and_no_floor_applies() -> None:
    settings = GpuSettings()
    assert (settings.interval, settings.timeout) == (5.0, 3.0)
    assert settings.rules == GpuRules()


def test_the_rules_follow_from_the_settings() -> None:
    settings = GpuSettings.model_validate(
        {
            "enabled": "required",
            "memory_warning": "10%",
            "memory_failure": "512MiB",
            "xid_ignore": [63],
            "xid_critical": [31],
            "temperature_margin": 5,
            "foreign_processes": "warn",
            "devices": [0, "GPU-8932f937", "MIG-GPU-8932f937/1/0"],
        }
    )
    assert settings.devices == ("0", "GPU-8932f937", "MIG-GPU-8932f937/1/0")
    assert settings.rules == GpuRules(
        memory_warning=Floor(10, percent=True),
        memory_failure=Floor(512 * 2**20),
        ignored_xids=(HARMLESS_XIDS | {63}) - {31},
        temperature_margin=5,
        foreign_processes=True,
        required=True,
    )


def test_settings_are_printed_as_they_may_be_written() -> None:
    settings = GpuSettings.model_validate({"memory_warning": "10%", "memory_failure": "1GiB"})
    assert GpuSettings.model_validate_json(settings.model_dump_json()) == settings


@pytest.mark.parametrize(
    ("table", "text"),
    [
        ({"enabled": "yes"}, "'auto', 'off' or 'required'"),
        ({"interval": 0}, "above zero"),
        ({"memory_warning": "lots"}, "expected a size"),
        (
            {"memory_warning": "5%", "memory_failure": "10%"},
            "memory_warning: expected at least memory_failure, which is 10%, found 5%",
        ),
        ({"memory_warning": 5, "memory_failure": 10}, "memory_warning: expected at least"),
        ({"devices": ["all"]}, "expected the index of a GPU, or"),
        ({"devices": [-1]}, "expected the index of a GPU, or"),
        ({"memory_warning": "9" * 400 + "GiB"}, "expected a size"),
        ({"memory_warning": 10**30}, "expected a size"),
        ({"temperature_margin": True}, "expected a number"),
        ({"xid_ignore": [True]}, "expected a number"),
        ({"devices": [True]}, "string"),
        ({"xid_ignore": [0]}, "greater than or equal to 1"),
        ({"xid_ignore": [63], "xid_critical": [63]}, "expected 63 in one of them"),
        ({"temperature_margin": -1}, "greater than or equal to 0"),
        ({"foreign_processes": True}, "'ignore' or 'warn'"),
        ({"unknown": 1}, "Extra inputs"),
    ],
)
def test_mistakes_are_refused(table: dict[str, object], text: str) -> None:
    with pytest.raises(ValidationError, match=text):
        GpuSettings.model_validate(table)
