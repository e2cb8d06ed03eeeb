"""The demo embedding model: its vectors and its canary."""

from __future__ import annotations

import importlib
import sys
import tomllib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

MODEL = Path(__file__).resolve().parents[3] / "triton_models" / "embedder"
# Triton adds a model's folder to the path of its process; so do we.
sys.path.insert(0, str(MODEL / "1"))
embedding: Any = importlib.import_module("embedding")


@given(st.text(max_size=200))
def test_every_text_has_a_vector_of_length_one(text: str) -> None:
    vector = embedding.embed(text)
    assert vector.shape == (embedding.DIM,)
    assert vector.dtype == np.float32
    assert np.linalg.norm(vector.astype(np.float64)) == pytest.approx(1, abs=1e-6)
    assert np.array_equal(vector, embedding.embed(text))


def test_case_does_not_matter() -> None:
    assert np.array_equal(embedding.embed("Straße"), embedding.embed("STRASSE"))


def test_similar_texts_are_closer() -> None:
    down, also_down, spring = (
        embedding.embed(text)
        for text in ("the server is down", "the servers are down", "a quiet day in spring")
    )
    assert down @ also_down > 2 * (down @ spring)


def test_the_largest_text_is_accepted_and_a_larger_one_refused() -> None:
    assert embedding.embed("x" * embedding.MAX_TEXT).any()
    with pytest.raises(ValueError, match=f"text: expected at most {embedding.MAX_TEXT} bytes"):
        embedding.embed("x" * (embedding.MAX_TEXT + 1))


def test_the_golden_answer_is_the_models_answer() -> None:
    canary = tomllib.loads((MODEL / "canary.toml").read_text())["canary"]["embedder"]
    (text,) = canary["inputs"]
    (expected,) = canary["expect"]
    assert (text["name"], expected["output"]) == ("text", "embedding")
    golden = np.array(expected["allclose"])
    vector = embedding.embed(text["data"][0])
    assert golden.shape == vector.shape
    assert np.allclose(vector, golden, rtol=expected["rtol"], atol=expected["atol"])
    assert not np.allclose(embedding.embed("ready, steady, go"), golden, atol=expected["atol"])


def test_the_configured_shape_is_the_real_one() -> None:
    assert f"dims: [ {embedding.DIM} ]" in (MODEL / "config.pbtxt").read_text()
