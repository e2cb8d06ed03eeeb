"""How snapshots are called."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sidecar.models.store.documents import layout, names
from sidecar.models.store.documents.names import Reference
from sidecar.runtime.errors import ConfigError

DIGEST = "0123456789abcdef" * 4
WORDS = st.from_regex(r"[A-Za-z0-9_][A-Za-z0-9._-]{0,127}", fullmatch=True)
DIGESTS = st.from_regex(r"[0-9a-f]{64}", fullmatch=True)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("chat", Reference("chat")),
        ("chat:v3", Reference("chat", "v3")),
        (f"chat@sha256:{DIGEST}", Reference("chat", digest=DIGEST)),
        ("qwen-0_5b@sha256:01234567", Reference("qwen-0_5b", digest="01234567")),
    ],
)
def test_what_people_write(text: str, expected: Reference) -> None:
    assert names.reference(text) == expected
    assert str(expected) == text


@pytest.mark.parametrize(
    "text",
    [
        *("", ":v1", "chat:", "chat@", "chat@v1", "chat@sha256:0123", f"chat:v1@sha256:{DIGEST}"),
        *("../chat", "a/b", "chat:a/b", ".hidden", "chat:..", "chat v", "ch\0at", "a" * 129),
        f"chat@sha256:{DIGEST.upper()}",
    ],
)
def test_what_is_no_name(text: str) -> None:
    with pytest.raises(ConfigError):
        names.reference(text)


@given(WORDS, WORDS)
def test_a_name_has_a_key_and_the_key_that_name(model: str, tag: str) -> None:
    found = names.reference(f"{model}:{tag}")
    assert layout.name_at(layout.name(found.model, found.tag)) == (model, tag)


@given(DIGESTS)
def test_a_digest_has_keys_and_the_keys_that_digest(digest: str) -> None:
    assert layout.digest_at(layout.blob(digest)) == digest
    assert layout.digest_at(layout.manifest(digest)) == digest


@given(st.text() | st.lists(st.text(), max_size=5).map("/".join))
def test_other_keys_are_none_of_ours(key: str) -> None:
    assert layout.digest_at(key) is None
    if (found := layout.name_at(key)) is not None:
        assert layout.name(*found) == key


def test_a_whole_digest_is_asked_for() -> None:
    assert names.digest_of(f"sha256:{DIGEST}") == names.digest_of(DIGEST) == DIGEST
    with pytest.raises(ConfigError):
        names.digest_of(DIGEST[:-1])
