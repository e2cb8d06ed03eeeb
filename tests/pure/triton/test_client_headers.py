"""`triton.headers` and `triton.header_files`: sent with every call to Triton."""

from pathlib import Path

import pytest

from sidecar.runtime.errors import ConfigError
from sidecar.settings import SidecarSettings, load_sidecar

pytestmark = pytest.mark.files


def load(folder: Path, table: str) -> SidecarSettings:
    path = folder / "sidecar.toml"
    path.write_text(f'[triton]\nmodels = ["chat"]\n{table}')
    return load_sidecar(path)


def test_values_come_from_the_settings_and_from_reloaded_files(tmp_path: Path) -> None:
    value = tmp_path / "value"
    value.write_text("hush-1\n")
    table = (
        'headers = { Authorization = "Bearer hush" }\n'
        f'header_files = {{ triton-grpc-protocol-key = "{value}" }}\n'
    )
    triton = load(tmp_path, table).triton
    assert triton.read_headers() == {
        "authorization": "Bearer hush", "triton-grpc-protocol-key": "hush-1"
    }  # fmt: skip
    value.write_text("hush-2")
    assert triton.read_headers()["triton-grpc-protocol-key"] == "hush-2"


def test_a_value_is_never_shown(tmp_path: Path) -> None:
    settings = load(tmp_path, 'headers = { key = "hush" }')
    assert "hush" not in repr(settings) + settings.model_dump_json()


@pytest.mark.parametrize(
    ("table", "words"),
    [
        ("headers = 'hush'", "triton.headers: expected a table of headers"),
        ("headers = { key = 5 }", "triton.headers.key: expected printable ASCII"),
        ("headers = { key = '' }", "triton.headers.key: expected printable ASCII"),
        ('headers = { key = "hush\\n" }', "triton.headers.key: expected printable ASCII"),
        ("headers = { 'a key' = 'hush' }", "triton.headers: expected names of headers"),
        ("headers = { grpc-timeout = 'hush' }", "triton.headers: expected names of headers"),
        ("headers = { key-bin = 'hush' }", "triton.headers: key-bin: expected a header of text"),
        ("header_files = 'hush'", "triton.header_files: expected a table of headers and files"),
        (
            "headers = { key = 'hush' }\nheader_files = { Key = '/hush' }",
            "triton.header_files: expected no key, which headers has as well",
        ),
    ],
)
def test_mistakes_are_reported_without_the_value(tmp_path: Path, table: str, words: str) -> None:
    with pytest.raises(ConfigError) as raised:
        load(tmp_path, table)
    assert words in str(raised.value)
    assert "hush" not in str(raised.value)


@pytest.mark.parametrize(
    ("content", "words"),
    [(None, "expected a file"), ("", "found nothing"), ("two\nlines", "on a single line")],
)
def test_an_unusable_file_names_its_key(tmp_path: Path, content: str | None, words: str) -> None:
    path = tmp_path / "value"
    if content is not None:
        path.write_text(content)
    settings = load(tmp_path, f'header_files = {{ key = "{path}" }}')
    with pytest.raises(ConfigError, match=words) as raised:
        settings.triton.read_headers()
    assert str(raised.value).startswith("triton.header_files.key: ")
