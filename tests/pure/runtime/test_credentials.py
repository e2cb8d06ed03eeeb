"""Files of tokens, certificates and keys: a mistake names the one key at fault."""

import shutil
from pathlib import Path

import pytest

from sidecar.runtime import credentials
from sidecar.runtime.errors import ConfigError

pytestmark = pytest.mark.files

# Two untrusted certificates, the key of one, and the key of the other with a passphrase.
TLS = Path(__file__).parents[3] / "tests" / "support" / "tls"


@pytest.fixture
def made(tmp_path: Path) -> Path:
    """Certificates, keys, and files that are neither."""
    folder = tmp_path / "tls"
    shutil.copytree(TLS, folder)
    (folder / "text").write_text("no certificate\n")
    (folder / "empty").write_text("")
    return folder


def test_valid_files_are_accepted(made: Path) -> None:
    own = made / "a.pem"
    assert credentials.tls("consul", own, own, made / "a.key").check_hostname
    assert credentials.tls("consul", None).cert_store_stats()
    assert credentials.tls("consul", own).cert_store_stats()["x509"] == 1


@pytest.mark.parametrize(
    ("names", "complaint"),
    [
        (("gone", "a.pem", "a.key"),
         "ca_file: expected a file of certificates in PEM, found {0}/gone: No such file or dir"),
        (("a.pem", "gone", "a.key"),
         "cert_file: expected a file of certificates in PEM, found {0}/gone: No such file or dir"),
        (("a.pem", "a.pem", "gone"),
         "key_file: expected a file with a private key in PEM, found {0}/gone: No such file or d"),
        ((".", "a.pem", "a.key"),
         "ca_file: expected a file of certificates in PEM, found {0}: Is a directory"),
        (("text", "a.pem", "a.key"),
         "ca_file: expected a file of certificates in PEM, found none in {0}/text"),
        (("a.pem", "empty", "a.key"),
         "cert_file: expected a file of certificates in PEM, found none in {0}/empty"),
        (("a.pem", "a.key", "a.key"),
         "cert_file: expected a file of certificates in PEM, found none in {0}/a.key"),
        (("a.pem", "a.pem", "text"),
         "key_file: expected a file with a private key in PEM, found {0}/text"),
        (("a.pem", "b.pem", "a.key"),
         "key_file: expected the private key of {0}/b.pem, found {0}/a.key"),
        (("a.pem", "b.pem", "locked.key"),
         "key_file: expected a key without a passphrase, found {0}/locked.key"),
    ],
)  # fmt: skip
def test_a_mistake_names_one_key(made: Path, names: tuple[str, str, str], complaint: str) -> None:
    with pytest.raises(ConfigError) as caught:
        credentials.tls("consul", *(made / name for name in names))
    assert str(caught.value).startswith(f"consul.{complaint.format(made)}")
    assert len(str(caught.value).splitlines()) == 1


@pytest.mark.parametrize(
    ("content", "complaint"),
    [
        (None, "expected a file with a token, found {0}: No such file or directory"),
        (b" \n", "expected a token in {0}, found nothing"),
        (b"\xff", "expected a token in ASCII on a single line in {0}"),
        (b"one\ntwo\n", "expected a token in ASCII on a single line in {0}"),
    ],
)
def test_malformed_tokens(tmp_path: Path, content: bytes | None, complaint: str) -> None:
    path = tmp_path / "token"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(ConfigError) as caught:
        credentials.read_token(path, "consul.token_file")
    assert str(caught.value) == f"consul.token_file: {complaint.format(path)}"


def test_an_impossible_file_name() -> None:
    with pytest.raises(ConfigError, match=r"^consul\.ca_file: expected .*embedded null byte$"):
        credentials.tls("consul", Path("a\0b"))
