"""The models with injectable faults: their answers, their canaries, and the faults."""

from __future__ import annotations

import importlib
import json
import os
import sys
import tomllib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

pytestmark = pytest.mark.files

MODELS = Path(__file__).resolve().parents[3] / "triton_models"
# Triton puts a model's folder on the path of its process; so do we.
sys.path.insert(0, str(MODELS / "faulty" / "1"))
staging: Any = importlib.import_module("staging")
QUESTION = "Which trees stand by the water?"


def stage_fault(folder: Path, **control: object) -> None:
    (folder / ".control.json").write_text(json.dumps(control))


@given(st.text(max_size=100))
def test_a_right_answer_is_deterministic_and_repeats_no_word(text: str) -> None:
    answer = staging.right(text)
    assert answer.words == staging.right(text).words
    assert all(one != next_ for one, next_ in zip(answer.words, answer.words[1:], strict=False))
    assert answer.vector.dtype == np.float32
    assert np.isfinite(answer.vector).all()


@pytest.mark.parametrize("model", ["faulty", "faulty_cached"])
def test_the_canary_expects_the_right_answer(model: str) -> None:
    canary = tomllib.loads((MODELS / model / "canary.toml").read_text())["canary"][model]
    [question] = canary["inputs"]
    assert question["data"] == [QUESTION]
    text, vector = canary["expect"]
    assert text["equals"] == [staging.right(QUESTION).text]
    assert vector["allclose"] == staging.right(QUESTION).vector.tolist()


@pytest.mark.parametrize("model", ["faulty_stream", "faulty_cached"])
def test_the_models_share_their_files(model: str) -> None:
    for name in ("staging.py", "tensors.py"):
        shared = MODELS / model / "1" / name
        assert shared.resolve() == MODELS / "faulty" / "1" / name


@pytest.mark.parametrize("fault", ["wrong", "nan", "empty", "degenerate", "huge"])
def test_a_fault_changes_the_answer_until_it_is_over(tmp_path: Path, fault: str) -> None:
    stage, right = staging.Stage(tmp_path), staging.right(QUESTION)
    stage_fault(tmp_path, fault=fault, mebibytes=1)
    answer = stage.answer(QUESTION)
    assert (answer.text, *answer.vector) != (right.text, *right.vector)
    stage_fault(tmp_path)
    assert stage.answer(QUESTION).text == right.text


def test_errors_occur_at_the_configured_rate(tmp_path: Path) -> None:
    stage = staging.Stage(tmp_path)
    stage_fault(tmp_path, fault="error")
    with pytest.raises(staging.StagedError, match="told to fail"):
        stage.answer(QUESTION)
    stage_fault(tmp_path, fault="error", share=0.1)
    failed = 0
    for _ in range(100):
        try:
            stage.answer(QUESTION)
        except staging.StagedError:
            failed += 1
    assert 2 < failed < 30


def test_an_unknown_fault_is_a_separate_error(tmp_path: Path) -> None:
    stage_fault(tmp_path, fault="wrnog")
    with pytest.raises(staging.StagedError, match="expected one of none, wrong"):
        staging.Stage(tmp_path).answer(QUESTION)


def test_a_fault_may_end_with_the_process(tmp_path: Path) -> None:
    stage = staging.Stage(tmp_path)
    stage_fault(tmp_path, fault="error", until_restart=True)
    with pytest.raises(staging.StagedError):
        stage.answer(QUESTION)
    assert staging.Stage(tmp_path).answer(QUESTION).text == staging.right(QUESTION).text


def test_a_gpu_without_memory_fails_requests_and_loads_until_triton_is_restarted(
    tmp_path: Path,
) -> None:
    stage = staging.Stage(tmp_path)
    stage_fault(tmp_path, fault="out_of_memory", triton=os.getppid())
    with pytest.raises(staging.StagedError, match="CUDA out of memory"):
        stage.answer(QUESTION)
    with pytest.raises(staging.StagedError, match="CUDA out of memory"):
        staging.Stage(tmp_path)
    another = os.getppid() + 1
    stage_fault(tmp_path, fault="out_of_memory", triton=another)
    assert staging.Stage(tmp_path).answer(QUESTION).text == staging.right(QUESTION).text
