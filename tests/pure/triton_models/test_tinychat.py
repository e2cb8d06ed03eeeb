"""The demo text models: the table, the generator, its parameters, its scheduler, its canaries."""

from __future__ import annotations

import importlib
import importlib.util
import json
import sys
import threading
import tomllib
import weakref
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

MODELS = Path(__file__).resolve().parents[3] / "triton_models"
TINYCHAT = MODELS / "tinychat" / "1"
SHARED = ("exchange.py", "generator.py", "ngrams.json", "sampling.py")
# Triton adds a model's folder to the path of its process; so do we.
sys.path.insert(0, str(TINYCHAT))
sampling: Any = importlib.import_module("sampling")
generator: Any = importlib.import_module("generator")
generations: Any = importlib.import_module("generations")
GENERATOR: Any = generator.Generator(TINYCHAT / "ngrams.json")


def build_ngrams() -> Any:
    spec = importlib.util.spec_from_file_location("build_ngrams", MODELS / "build_ngrams.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def ask(prompt: str, **parameters: object) -> str:
    text: str = GENERATOR.text(prompt, sampling.parse(json.dumps(parameters), 0.0))
    return text


# --- the table ---


def test_the_table_in_git_is_generated_from_the_text() -> None:
    text = (MODELS / "tinychat.txt").read_text(encoding="utf-8")
    assert build_ngrams().build(text).encode() == (TINYCHAT / "ngrams.json").read_bytes()


def test_every_token_and_pair_has_a_successor() -> None:
    table = json.loads(build_ngrams().build("one two one. three"))
    tokens = table["tokens"]
    assert tokens == ["one", "two", ".", "three"]
    assert table["after_one"][0] == [1, 1, 2, 1]
    assert table["after_two"]["2 3"] == [0, 1]  # from the end of the text to its beginning
    assert [tokens[start] for start in table["starts"]] == ["three"]
    assert all(table["after_one"])


def test_a_text_without_words_is_refused() -> None:
    with pytest.raises(ValueError, match="at least 3 tokens"):
        build_ngrams().build("too short")


def test_a_text_without_sentences_is_refused() -> None:
    with pytest.raises(ValueError, match="end of a sentence"):
        build_ngrams().build("one two three four")


@pytest.mark.parametrize("name", SHARED)
def test_both_models_share_their_files(name: str) -> None:
    unary = MODELS / "tinychat_unary" / "1" / name
    assert unary.resolve() == (TINYCHAT / name).resolve()


# --- the generator ---


@given(st.text(max_size=60), st.integers(-(2**63), 2**63 - 1), st.sampled_from([0, 0.3, 1, 2]))
def test_the_same_question_has_the_same_answer(prompt: str, seed: int, heat: float) -> None:
    fresh = generator.Generator(TINYCHAT / "ngrams.json")
    asked = sampling.Sampling(max_tokens=12, seed=seed, temperature=heat)
    pieces = list(GENERATOR.pieces(prompt, asked))
    assert pieces == list(fresh.pieces(prompt, asked))
    assert len(pieces) == 12
    assert "".join(pieces) == GENERATOR.text(prompt, asked)


def test_the_seed_matters_unless_the_temperature_is_zero() -> None:
    assert len({ask("Hello", seed=seed) for seed in range(20)}) > 5
    assert len({ask("Hello", seed=seed, temperature=0) for seed in range(20)}) == 1


def test_one_candidate_is_the_same_as_temperature_zero() -> None:
    greedy = ask("The first rule", temperature=0)
    assert ask("The first rule", top_k=1, seed=5) == greedy
    assert ask("The first rule", top_p=1e-9, seed=5) == greedy


def test_the_answer_continues_the_prompt() -> None:
    assert ask("The first", temperature=0, max_tokens=2) == "rule is"
    assert ask("nobody knows zyzzyva", max_tokens=1)[0].isupper()  # else a new sentence


def test_a_longer_answer_begins_with_the_shorter_one() -> None:
    assert ask("Hello", max_tokens=40, seed=3).startswith(ask("Hello", max_tokens=10, seed=3))


def test_no_sampling_parameters_is_also_valid() -> None:
    assert sampling.parse("", 0.0) == sampling.Sampling()
    assert GENERATOR.text("Hello", sampling.Sampling()) == ask("Hello")


# --- sampling parameters ---


def test_numbers_may_be_strings_as_for_the_vllm_backend() -> None:
    text = '{"max_tokens": "3", "temperature": "0.5", "top_k": "2", "top_p": "0.9", "seed": "-7"}'
    assert sampling.parse(text, 5.0) == sampling.Sampling(
        max_tokens=3, temperature=0.5, top_k=2, top_p=0.9, seed=-7, delay_ms=5.0
    )


def test_a_request_overrides_the_delay_of_the_model() -> None:
    assert sampling.parse("{}", 5.0).delay == 0.005
    assert sampling.parse('{"delay_ms": 0}', 5.0).delay == 0.0
    assert sampling.parse('{"delay_ms": 250}', 5.0).delay == 0.25


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{bad", "sampling_parameters: not JSON"),
        ("[1]", r"sampling_parameters: expected a JSON object, got \[1\]"),
        ("[" * 100_000, "sampling_parameters: not JSON"),
        ('{"max_token": 1}', "unknown max_token; known are max_tokens, temperature"),
        ('{"max_tokens": 0}', "max_tokens: expected .* from 1 to 4096, got 0"),
        ('{"max_tokens": 4097}', "max_tokens: expected"),
        ('{"max_tokens": 1.5}', "max_tokens: expected"),
        ('{"max_tokens": true}', "max_tokens: expected a whole number .* got true"),
        ('{"max_tokens": null}', "max_tokens: expected a whole number .* got null"),
        ('{"temperature": -0.1}', "temperature: expected .* from 0 to 2"),
        ('{"temperature": "hot"}', 'temperature: expected .* got "hot"'),
        ('{"temperature": NaN}', "temperature: expected"),
        ('{"top_k": -2}', "top_k: expected a whole number from -1"),
        ('{"top_p": 0}', "top_p: expected a number above 0"),
        ('{"top_p": 1.1}', "top_p: expected"),
        ('{"seed": 9223372036854775808}', "seed: expected"),
        ('{"seed": "%s"}' % ("9" * 5000), r"seed: expected .* got .{40}\.\.\."),
        ('{"delay_ms": 10001}', "delay_ms: expected .* from 0 to 10000"),
        ('{"delay_ms": Infinity}', "delay_ms: expected"),
        ('{"name_instance": 1}', "name_instance: expected true or false, got 1"),
        ('{"max_tokens": 4096, "delay_ms": 1000}', "is 4096 s, expected at most 600 s"),
    ],
)
def test_bad_parameters_are_refused_by_name(text: str, message: str) -> None:
    with pytest.raises(sampling.BadRequest, match=message):
        sampling.parse(text, 0.0)


values = st.one_of(st.none(), st.booleans(), st.integers(), st.floats(), st.text(max_size=5))
names = st.sampled_from(
    ["max_tokens", "temperature", "top_k", "top_p", "seed", "delay_ms", "name_instance", "other"]
)


@given(st.dictionaries(names, values, max_size=4))
def test_any_accepted_parameters_can_be_answered(parameters: dict[str, object]) -> None:
    try:
        asked = sampling.parse(json.dumps(parameters), 0.0)
    except sampling.BadRequest:
        return
    assert len(list(GENERATOR.pieces("Hello", asked))) == asked.max_tokens


# --- many generations on one thread ---


@pytest.fixture
def errors() -> list[Exception]:
    return []


@pytest.fixture
def running(errors: list[Exception]) -> Iterator[Any]:
    started = generations.Generations(limit=3, on_error=errors.append)
    yield started
    assert started.close(60)


def steps(number: int, seen: list[int], done: threading.Event) -> Any:
    def step(now: float) -> float | None:
        seen.append(len(seen))
        if len(seen) < number:
            return now
        done.set()
        return None

    return step


def test_a_generation_is_stepped_until_it_ends(running: Any) -> None:
    first: list[int] = []
    second: list[int] = []
    ended = threading.Event(), threading.Event()
    running.submit(steps(20, first, ended[0]))
    running.submit(steps(5, second, ended[1]))
    assert all(event.wait(60) for event in ended)
    assert (len(first), len(second)) == (20, 5)


def test_an_ended_generation_is_released(running: Any) -> None:
    """It holds a response sender: before 2.49 Triton unloads no model while one exists."""

    class Answer:
        def step(self, now: float) -> None:
            done.set()

    done = threading.Event()
    answer = Answer()
    gone = threading.Event()
    weakref.finalize(answer, gone.set)
    running.submit(answer.step)
    del answer
    assert done.wait(60)
    assert gone.wait(60)


def test_a_failing_generation_ends_alone(running: Any, errors: list[Exception]) -> None:
    def broken(now: float) -> float | None:
        raise RuntimeError("broken")

    done = threading.Event()
    running.submit(broken)
    running.submit(steps(3, [], done))
    assert done.wait(60)
    assert [str(error) for error in errors] == ["broken"]


def test_the_limit_is_enforced_and_slots_are_freed(running: Any) -> None:
    release = threading.Event()
    left = threading.Semaphore(0)

    def waiting(now: float) -> float | None:
        if release.is_set():
            left.release()
            return None
        return now + 0.01

    for _ in range(3):
        running.submit(waiting)
    with pytest.raises(generations.Full, match="3 generations are running"):
        running.submit(waiting)
    release.set()
    assert all(left.acquire(timeout=60) for _ in range(3))


def test_closing_lets_running_generations_end_and_accepts_no_new_ones() -> None:
    started = generations.Generations(limit=3, on_error=lambda error: None)
    seen: list[int] = []
    started.submit(steps(10, seen, threading.Event()))
    assert started.close(60)
    assert len(seen) == 10
    with pytest.raises(generations.Full, match="unloaded"):
        started.submit(steps(1, [], threading.Event()))


# --- the canaries ---


@pytest.mark.parametrize("model", ["tinychat", "tinychat_unary"])
def test_the_golden_answer_is_the_generators_answer(model: str) -> None:
    canary = tomllib.loads((MODELS / model / "canary.toml").read_text())["canary"][model]
    data = {tensor["name"]: tensor["data"][0] for tensor in canary["inputs"]}
    asked = sampling.parse(data["sampling_parameters"], 5.0)
    assert canary["expect"] == [
        {"output": "text_output", "equals": [GENERATOR.text(data["text_input"], asked)]}
    ]
    assert asked.delay == 0.0
    assert asked.max_tokens <= 8
