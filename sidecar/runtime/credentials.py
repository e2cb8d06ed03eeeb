"""Tokens, certificates and keys in files that settings name; each error names the setting.

Acts: through what it imports or is given.
"""

import ssl
from pathlib import Path

from sidecar.runtime.errors import ConfigError, unreadable

_CERTIFICATES = "a file of certificates in PEM"


def resolve_token(token: str | None, path: Path | None, key: str) -> str | None:
    """The token, or that of a file, which is reread at each call; None without either.

    Raises:
        FileUnreadable: the file cannot be read at the moment.
        ConfigError: its name is impossible, or it holds no token.
    """
    return token if path is None else read_token(path, key)


def read_token(path: Path, key: str) -> str:
    """The token in a file; `key` names the setting.

    Raises:
        FileUnreadable: the file cannot be read at the moment.
        ConfigError: its name is impossible, or it holds no token.
    """
    content = _read(path, key, "a file with a token").strip()
    if not content:
        raise ConfigError(f"{key}: expected a token in {path}, found nothing")
    if not (content.isascii() and content.decode().isprintable()):
        raise ConfigError(f"{key}: expected a token in ASCII on a single line in {path}")
    return content.decode()


def tls(
    table: str, ca_file: Path | None, cert_file: Path | None = None, key_file: Path | None = None
) -> ssl.SSLContext:
    """The TLS context of a client; `table` is the table with `ca_file` and the like.

    Raises:
        FileUnreadable: one of the files cannot be read at the moment.
        ConfigError: one does not hold what it should, or its name is impossible.
    """
    if ca_file is None:
        context = ssl.create_default_context()
    else:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        _trust(context, ca_file, f"{table}.ca_file")
    if cert_file is not None and key_file is not None:
        _present(context, table, cert_file, key_file)
    return context


def readable(path: Path, key: str) -> None:
    """Check that a file can be read.

    Raises:
        FileUnreadable: it cannot be read at the moment.
        ConfigError: its name is impossible.
    """
    _read(path, key, "a file that can be read")


def _read(path: Path, key: str, wanted: str) -> bytes:
    try:
        return path.read_bytes()
    except (OSError, ValueError) as error:  # ValueError: a zero byte in the name
        why = getattr(error, "strerror", None) or str(error)
        raise unreadable(error)(f"{key}: expected {wanted}, found {path}: {why}") from error


def _trust(context: ssl.SSLContext, path: Path, key: str) -> None:
    _read(path, key, _CERTIFICATES)
    try:
        context.load_verify_locations(path)
    except ssl.SSLError as error:
        raise ConfigError(f"{key}: expected {_CERTIFICATES}, found none in {path}") from error


def _present(context: ssl.SSLContext, table: str, cert_file: Path, key_file: Path) -> None:
    """Have the client present a certificate; an error names one of the two files."""
    # OpenSSL does not say which of the files it means.
    _trust(ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT), cert_file, f"{table}.cert_file")
    key, wanted = f"{table}.key_file", "a file with a private key in PEM"
    _read(key_file, key, wanted)

    def locked() -> str:  # OpenSSL would prompt for it on the terminal
        raise ConfigError(f"{key}: expected a key without a passphrase, found {key_file}")

    try:
        context.load_cert_chain(cert_file, key_file, locked)
    except ssl.SSLError as error:
        if error.reason == "KEY_VALUES_MISMATCH":
            wanted = f"the private key of {cert_file}"
        raise ConfigError(f"{key}: expected {wanted}, found {key_file}") from error
