"""Converts Triton's response messages into the values of `api.py`. Pure."""

from typing import Any

from sidecar.runtime.errors import Rejected
from sidecar.triton import model_config
from sidecar.triton import tensors as triton_tensors
from sidecar.triton.api import ModelDescription, Statistics, Tensor, TensorSpec

_SEQUENCE_IDLE = 1.0  # seconds; Triton's default, which a ModelConfig shows as 0


def outputs(response: Any) -> dict[str, Tensor]:
    """The outputs of one `ModelInferResponse` by name.

    Raises:
        Rejected: they do not match their datatypes and shapes.
    """
    described, contents = response.outputs, response.raw_output_contents
    if len(described) != len(contents):
        raise Rejected(f"{len(described)} outputs, but {len(contents)} raw contents")
    found: dict[str, Tensor] = {}
    for output, raw in zip(described, contents, strict=True):
        try:
            found[output.name] = triton_tensors.decode(output.datatype, output.shape, raw)
        except ValueError as error:
            raise Rejected(f"output {output.name!r} cannot be decoded: {error}") from error
    return found


def description(metadata: Any, config: Any) -> ModelDescription:
    """The description of a model, from its `ModelMetadataResponse` and its `ModelConfig`."""
    optional = {given.name for given in config.input if given.optional}

    def specs(tensors: Any) -> tuple[TensorSpec, ...]:
        return tuple(
            TensorSpec(each.name, each.datatype, tuple(each.shape), each.name in optional)
            for each in tensors
        )

    return ModelDescription(
        name=metadata.name,
        versions=tuple(metadata.versions),
        config=model_config.without_tuning(config),
        decoupled=config.model_transaction_policy.decoupled,
        stateful=config.HasField("sequence_batching"),
        inputs=specs(metadata.inputs),
        outputs=specs(metadata.outputs),
        max_batch_size=config.max_batch_size,
        priority_levels=config.dynamic_batching.priority_levels,
        sequence_idle=_sequence_idle(config),
        cached=config.response_cache.enable,
        instances=sum(each.count * max(len(each.gpus), 1) for each in config.instance_group),
        steps=model_config.steps(config),
        refuses=model_config.refuses(config),
        resources=model_config.resources(config),
        string_ids=_has_string_ids(config.sequence_batching),
    )


def _sequence_idle(config: Any) -> float:
    if not config.HasField("sequence_batching"):
        return 0.0
    return config.sequence_batching.max_sequence_idle_microseconds / 1e6 or _SEQUENCE_IDLE


def _has_string_ids(batching: Any) -> bool:
    """Whether the control for the correlation id is declared as a string, not a number."""
    controls = (control for given in batching.control_input for control in given.control)
    ids = (each for each in controls if each.kind == each.CONTROL_SEQUENCE_CORRID)
    return any(_name(each, "data_type") == "TYPE_STRING" for each in ids)


def _name(message: Any, field: str) -> str:
    """The name of a message field's enum value."""
    values = message.DESCRIPTOR.fields_by_name[field].enum_type.values_by_number
    value = values.get(getattr(message, field))
    return value.name if value else ""


def statistics(found: Any) -> Statistics:
    """The statistics of one version of a model, from its `ModelStatistics`."""
    times = found.inference_stats
    compute = (times.compute_input, times.compute_infer, times.compute_output)
    return Statistics(
        model=found.name,
        version=found.version,
        successes=times.success.count,
        failures=times.fail.count,
        inferences=found.inference_count,
        executions=found.execution_count,
        responses=sum(
            each.success.count + each.empty_response.count for each in found.response_stats.values()
        ),
        success_seconds=times.success.ns / 1e9,
        queue_seconds=times.queue.ns / 1e9,
        compute_seconds=sum(each.ns for each in compute) / 1e9,
        cached=times.cache_hit.count,
    )
