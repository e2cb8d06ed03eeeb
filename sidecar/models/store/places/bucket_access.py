"""The client of a bucket: what its address and the environment say, and its errors in our terms.

Acts: obstore, os.
"""

import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta
from typing import TYPE_CHECKING

from obstore import exceptions
from obstore.store import S3Store

from sidecar.runtime.errors import ConfigError, NotFound, Unavailable

if TYPE_CHECKING:
    from obstore.store import ClientConfig, RetryConfig, S3Config

_SCHEME = "s3://"
_BUCKET = re.compile(r"[a-z0-9][a-z0-9.-]{1,61}[a-z0-9]")
_CODE = re.compile(r"<Code>(\w+)</Code>")
_STATUS = re.compile(r"status code: (\d+ [A-Za-z ]+)")
# In the order in which the tools of AWS take them.
_ENDPOINTS = ("AWS_ENDPOINT_URL_S3", "AWS_ENDPOINT_URL", "AWS_ENDPOINT")
_CREDENTIALS = (
    *("AWS_ACCESS_KEY_ID", "AWS_SKIP_SIGNATURE", "AWS_WEB_IDENTITY_TOKEN_FILE"),
    *("AWS_CONTAINER_CREDENTIALS_RELATIVE_URI", "AWS_CONTAINER_CREDENTIALS_FULL_URI"),
)
_REGION = "us-east-1"  # other servers ignore it, but requests are signed with one
_CLIENT: "ClientConfig" = {
    "connect_timeout": timedelta(seconds=10),
    # Of one request, which is for at most one part: a slow line gets 40 kB/s at least.
    "timeout": timedelta(seconds=120),
}
_RETRIES: "RetryConfig" = {
    "max_retries": 6,
    "backoff": {
        "init_backoff": timedelta(seconds=0.2),
        "max_backoff": timedelta(seconds=10),
        "base": 2,
    },
    "retry_timeout": timedelta(seconds=300),
}
# No retry begins later than 30 s after the request, waits for more than 10 s, or takes over 30 s.
_HASTY_CLIENT: "ClientConfig" = {"timeout": timedelta(seconds=30)}
_HASTY_RETRIES: "RetryConfig" = {"max_retries": 2, "retry_timeout": timedelta(seconds=30)}
_FOR_THE_OPERATOR = (
    exceptions.PermissionDeniedError,
    exceptions.UnauthenticatedError,
    exceptions.InvalidPathError,
    exceptions.NotSupportedError,
    exceptions.UnknownConfigurationKeyError,
    ValueError,
)
_MISTAKES = {"NoSuchBucket", "InvalidBucketName", "InvalidAccessKeyId", "SignatureDoesNotMatch"}


def client(url: str) -> S3Store:
    """The client for an address such as `s3://bucket/prefix`.

    Raises:
        ConfigError: it is no such address, or the environment says something impossible.
    """
    return _client(url, _CLIENT, _RETRIES)


def hasty_client(url: str) -> S3Store:
    """A client whose requests, with their retries, have ended after 70 s; errors as of `client`."""
    return _client(url, {**_CLIENT, **_HASTY_CLIENT}, {**_RETRIES, **_HASTY_RETRIES})


def _client(url: str, settings: "ClientConfig", retries: "RetryConfig") -> S3Store:
    bucket, _, prefix = url.removeprefix(_SCHEME).partition("/")
    if not _BUCKET.fullmatch(bucket):
        raise ConfigError(f"expected s3://BUCKET/PREFIX, found {url!r:.100}")
    options: ClientConfig = {**settings}
    endpoint = next((value for name in _ENDPOINTS if (value := os.environ.get(name))), None)
    if endpoint and endpoint.startswith("http://"):
        options["allow_http"] = True
    if endpoint and not any(map(os.environ.get, _CREDENTIALS)):
        # Otherwise the client asks the network for those of a machine at AWS, and waits.
        raise ConfigError(
            f"{url}: expected AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY in the environment, "
            f"for {endpoint}"
        )
    region = os.environ.get("AWS_REGION") or os.environ.get("AWS_DEFAULT_REGION") or _REGION
    config: S3Config = {"region": region}
    if endpoint:
        config["endpoint"] = endpoint
    with translated(url):
        return S3Store(
            bucket,
            prefix=prefix.strip("/") or None,
            config=config,
            client_options=options,
            retry_config=retries,
        )


@contextmanager
def translated(where: str) -> Iterator[None]:
    """Translate the client's errors; the message begins with where it happened.

    Raises:
        NotFound: there is no such object.
        ConfigError: the operator has to change an address, a right or a credential.
        Unavailable: any other error.
    """
    try:
        yield
    except FileNotFoundError as error:
        if _code(error) in _MISTAKES:
            raise ConfigError(f"{where}: {_code(error)}") from error
        raise NotFound(f"{where} does not exist") from error
    except _FOR_THE_OPERATOR as error:
        raise ConfigError(f"{where}: {_words(error)}") from error
    except exceptions.BaseError as error:
        kind = ConfigError if _code(error) in _MISTAKES else Unavailable
        raise kind(f"{where}: {_words(error)}") from error


def _code(error: BaseException) -> str:
    found = _CODE.search(str(error))
    return found[1] if found else ""


def _words(error: BaseException) -> str:
    """S3's code, or the HTTP status, or the first line of the client's text without its address."""
    if code := _code(error):
        return code
    text = str(error).partition("\n")[0]
    if status := _STATUS.search(text):
        return status[1].strip()
    return text.rpartition(" - ")[2][:300] or type(error).__name__
