"""What of a model's configuration makes a difference to its answers. Pure."""

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


def steps(config: Any) -> tuple[str, ...]:
    """The models that an ensemble is composed of, each once."""
    return tuple(dict.fromkeys(step.model_name for step in config.ensemble_scheduling.step))
