"""Extracts from a `ModelConfig` what affects a model's answers and its waiting requests. Pure."""

from typing import Any

# Number of instances, their GPUs, and the resources they wait for. The kind is not among them,
# because a GPU computes differently from a CPU.
_TUNING = ("name", "count", "gpus", "secondary_devices", "host_policy", "rate_limiter")


def without_tuning(config: Any) -> bytes:
    """A `ModelConfig` without the fields that adapt it to its host, serialised deterministically.

    Instance groups that differ only in those fields count once; one without a kind does not count.
    """
    kept = type(config)()
    kept.CopyFrom(config)
    del kept.instance_group[:]
    groups: dict[bytes, Any] = {}
    for group in config.instance_group:
        found = type(group)()
        found.CopyFrom(group)
        for field in _TUNING:
            found.ClearField(field)
        groups[found.SerializeToString(deterministic=True)] = found
    kept.instance_group.extend(groups[key] for key in sorted(groups) if key)
    return bytes(kept.SerializeToString(deterministic=True))


def resources(config: Any) -> tuple[str, ...]:
    """The names of the rate limiter resources that a model waits for."""
    limits = (group.rate_limiter.resources for group in config.instance_group)
    return tuple(sorted({each.name for found in limits for each in found}))


def refuses(config: Any) -> bool:
    """Whether one of the model's queues is limited in size or in waiting time."""
    batching = config.dynamic_batching
    policies = (batching.default_queue_policy, *batching.priority_queue_policy.values())
    return any(
        each.max_queue_size
        or (each.timeout_action == each.REJECT and each.default_timeout_microseconds)
        for each in policies
    )


def steps(config: Any) -> tuple[str, ...]:
    """The models of an ensemble's steps, each once."""
    return tuple(dict.fromkeys(step.model_name for step in config.ensemble_scheduling.step))
