import math
import tomllib
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sidecar.local.planning import toml

text = st.text(st.characters(exclude_categories=["Cs"]))
scalars = st.one_of(
    st.booleans(),
    st.integers(-(2**63), 2**63 - 1),
    st.floats(allow_nan=False),
    text,
)
values = st.recursive(
    scalars,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(text, inner, max_size=4),
    max_leaves=12,
)


@given(st.dictionaries(text, values, max_size=5))
def test_written_toml_is_read_back(document: dict[str, Any]) -> None:
    assert tomllib.loads(toml.dumps(document)) == document


def test_nan_is_written() -> None:
    assert math.isnan(tomllib.loads(toml.dumps({"x": math.nan}))["x"])


@pytest.mark.parametrize(
    "path",
    ['/srv/with space/and "quotes"', "/srv/back\\slash", "/srv/tab\tand\nline", "/srv/ünï/\x7f"],
)
def test_paths_that_need_escapes(path: str) -> None:
    written = toml.dumps({"consul": {"token_file": path}, "canary": {"a b": {"x": [{"y": path}]}}})
    read = tomllib.loads(written)
    assert read["consul"]["token_file"] == path
    assert read["canary"]["a b"]["x"][0]["y"] == path


def test_a_value_that_toml_cannot_express_is_an_error() -> None:
    with pytest.raises(TypeError, match="NoneType"):
        toml.dumps({"nothing": None})
