"""Builders of settings files."""

from pathlib import Path

import pytest

MINIMAL = """
[triton]
models = ["echo"]
[canary.echo]
inputs = [{ name = "text", datatype = "BYTES", shape = [1], data = ["hello"] }]
expect = [{ output = "text", equals = ["hello"] }]
"""


@pytest.fixture(autouse=True)
def without_consul_variables(monkeypatch: pytest.MonkeyPatch) -> None:
    for variable in (
        "CONSUL_HTTP_ADDR",
        "CONSUL_HTTP_TOKEN",
        "CONSUL_HTTP_TOKEN_FILE",
        "CONSUL_HTTP_SSL",
        "CONSUL_HTTP_SSL_VERIFY",
        "CONSUL_CACERT",
        "CONSUL_CLIENT_CERT",
        "CONSUL_CLIENT_KEY",
    ):
        monkeypatch.delenv(variable, raising=False)


def write(folder: Path, text: str) -> Path:
    path = folder / "sidecar.toml"
    path.write_text(text)
    return path


INPUT = '{ name = "x", datatype = "INT8", shape = [1], data = [1] }'


def canary(inputs: str = f"[{INPUT}]", expect: str = "finite = true", rest: str = "") -> str:
    return (
        f"[triton]\nmodels = ['echo']\n[canary.echo]\ninputs = {inputs}\n"
        f'expect = [{{ output = "y", {expect} }}]\n{rest}\n'
    )


def one_input(**changes: str) -> str:
    keys = {"name": '"x"', "datatype": '"INT8"', "shape": "[1]", "data": "[1]"} | changes
    return f"[{{ {', '.join(f'{key} = {value}' for key, value in keys.items() if value)} }}]"
