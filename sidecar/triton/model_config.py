"""What of a model's configuration matters to its answers, and to who waits for them. Pure."""

from typing import Any

# How many instances a model has, on which GPUs, and what they wait for. Its kind counts: a GPU does
# not calculate as a CPU does.
_TUNING = ("name", "count", "gpus", "secondary_devices", "host_policy", "rate_limiter")


def without_tuning(config: Any) -> bytes:
    """A `ModelConfig`, serialised deterministically, but for what fits it to its host.

    Instance groups count once for each way in which they differ otherwise; one without a kind is
    as good as none.
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
    """What Triton's rate limiter has a model wait for, by name."""
    limits = (group.rate_limiter.resources for group in config.instance_group)
    return tuple(sorted({each.name for found in limits for each in found}))


def refuses(config: Any) -> bool:
    """Whether a queue of the model's has room for so many requests, or keeps them for so long."""
    batching = config.dynamic_batching
    policies = (batching.default_queue_policy, *batching.priority_queue_policy.values())
    return any(
        each.max_queue_size
        or (each.timeout_action == each.REJECT and each.default_timeout_microseconds)
        for each in policies
    )


def steps(config: Any) -> tuple[str, ...]:
    """The models that an ensemble is composed of, each once."""
    return tuple(dict.fromkeys(step.model_name for step in config.ensemble_scheduling.step))
