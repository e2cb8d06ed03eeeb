"""Parses a model's config.pbtxt into Triton's `ModelConfig` message.

Acts: tritonclient.
"""

from typing import Any

from google.protobuf import text_format
from tritonclient.grpc import service_pb2


def parse_config(text: str, newer: bool = True) -> Any:
    """The `ModelConfig` that a config.pbtxt holds.

    Args:
        text: the file's content.
        newer: whether to ignore fields that this sidecar's Triton protos do not know yet.

    Raises:
        ValueError: it cannot be parsed; the message has line and column.
    """
    config = service_pb2.ModelConfigResponse().config
    try:
        return text_format.Parse(text, config, allow_unknown_field=newer)
    except text_format.ParseError as error:
        raise ValueError(str(error)) from error
