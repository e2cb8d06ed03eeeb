from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sidecar.models.manifest import (
    ConfigFile,
    ModelFiles,
    VersionPolicy,
    config_file,
    counts,
    digest,
    files_digest,
    is_version,
)
from sidecar.triton.api import ModelDescription
from sidecar.triton.config_pbtxt import parse_config

CHAT = ModelFiles("chat", ("1", "2"), (("1/model.py", "aa"), ("config.pbtxt", "bb")))
EMBED = ModelFiles("embed", ("1",), (("1/model.onnx", "cc"),))
TEXT = st.text(st.characters(codec="utf-8"), max_size=3)
FILES = st.lists(st.tuples(TEXT, TEXT), max_size=3, unique_by=lambda file: file[0])
VERSIONS = st.lists(st.integers(0, 12).map(str), max_size=4, unique=True)
MODELS = st.lists(
    st.builds(ModelFiles, TEXT, VERSIONS.map(tuple), FILES.map(tuple)),
    max_size=3,
    unique_by=lambda model: model.name,
)


def test_a_digest_names_its_source() -> None:
    assert digest([ModelDescription("chat", ("1",), b"c")]).startswith("triton-")
    assert files_digest([CHAT]).startswith("files-")
    assert [len(found.rpartition("-")[2]) for found in (digest([]), files_digest([]))] == [16, 16]


def test_the_digest_of_files_distinguishes_sets_and_ignores_order() -> None:
    shuffled = replace(CHAT, versions=CHAT.versions[::-1], files=CHAT.files[::-1])
    assert files_digest([CHAT, EMBED]) == files_digest([EMBED, shuffled])
    sets = [
        [],
        [CHAT],
        [CHAT, EMBED],
        [replace(CHAT, name="cha")],
        [replace(CHAT, versions=("1",))],
        [replace(CHAT, files=CHAT.files[:1])],
        [replace(CHAT, files=(("1/model.py", "aa"), ("config.pbtxt", "b")))],
        [replace(CHAT, files=(("1/model.p", "aa"), ("config.pbtxt", "bb")))],
    ]
    assert len({files_digest(models) for models in sets}) == len(sets)


def test_a_file_name_that_is_not_text_counts_too() -> None:
    odd = [replace(EMBED, files=((name, "cc"),)) for name in ("1/\udc80", "1/\udc81")]
    assert len({files_digest([model]) for model in odd}) == len(odd)


@given(MODELS, MODELS)
def test_different_sets_have_different_digests(
    ours: list[ModelFiles], theirs: list[ModelFiles]
) -> None:
    def plain(models: list[ModelFiles]) -> object:
        return {model.name: (set(model.versions), set(model.files)) for model in models}

    assert (files_digest(ours) == files_digest(theirs)) == (plain(ours) == plain(theirs))


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("", ConfigFile()),
        ('name: "x" not_known_yet { a: 1 }', ConfigFile()),
        ("version_policy { latest { num_versions: 3 } }", ConfigFile(VersionPolicy(latest=3))),
        ("version_policy { latest { } }", ConfigFile(VersionPolicy(latest=0))),
        ("version_policy { all { } }", ConfigFile(VersionPolicy())),
        ("version_policy { }", ConfigFile(VersionPolicy())),
        (
            "version_policy { specific { versions: [3, 1] } }",
            ConfigFile(VersionPolicy(specific=("3", "1"))),
        ),
        (
            """ensemble_scheduling {
              step { model_name: "b" } step { model_name: "a" } step { model_name: "b" }
            }""",
            ConfigFile(steps=("b", "a")),
        ),
    ],
)
def test_which_parts_of_a_config_count(text: str, found: ConfigFile) -> None:
    assert config_file(parse_config(text)) == found


@pytest.mark.parametrize(
    ("policy", "chosen"),
    [
        (VersionPolicy(latest=1), "10"),
        (VersionPolicy(latest=2), "9 10"),
        (VersionPolicy(latest=7), "1 2 9 10"),
        (VersionPolicy(latest=0), ""),
        (VersionPolicy(), "1 2 9 10"),
        (VersionPolicy(specific=("9", "3", "1")), "1 9"),
        (VersionPolicy(specific=()), ""),
    ],
)
def test_which_versions_are_loaded(policy: VersionPolicy, chosen: str) -> None:
    assert policy.chosen(["9", "10", "1", "2"]) == tuple(chosen.split())


@pytest.mark.parametrize(
    ("name", "version"),
    [("1", True), ("10", True), ("0", True), ("01", False), ("1a", False), ("", False)],
)
def test_names_of_versions(name: str, version: bool) -> None:
    assert is_version(name) is version


@pytest.mark.parametrize(
    ("path", "counted"),
    [
        ("config.pbtxt", True),
        ("labels.txt", True),
        ("warmup/input", True),
        ("1/model.onnx", True),
        ("1/tokenizer/vocab.npy", True),
        ("1/canary.toml", True),
        ("2/model.onnx", False),
        ("1/.model.onnx.swp", False),
        ("1/__pycache__/model.cpython-311.pyc", False),
        ("1/model.pyc", False),
        (".git/config", False),
        ("canary.toml", False),
        ("canary.text_output.npy", False),
        ("canary.input.text.npy", False),
        ("embedding.npy", True),
    ],
)
def test_files_that_count(path: str, counted: bool) -> None:
    assert counts(tuple(path.split("/")), ("1",)) is counted
