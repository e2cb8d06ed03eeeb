"""Metrics as hooks on events."""

from prometheus_client import generate_latest

from sidecar.election.lease import Role
from sidecar.events import (
    CanarySent,
    Probed,
    RecoveryActed,
    RecoveryDecided,
    Reloaded,
    RequestFailed,
    RoleChanged,
    VerdictChanged,
)
from sidecar.runtime.errors import Unavailable
from sidecar.telemetry.metrics import MetricsHook
from sidecar.verdict.evidence import Finding, Layer, Reason
from sidecar.verdict.verdict import UNPROVEN, Verdict
from sidecar.verdict.verdict_line import State


def test_metrics_follow_events() -> None:
    hook = MetricsHook([role.value for role in Role])
    passing = Verdict(State.PASSING, Reason.OK, unusable=(("embed", Reason.MODEL_HUNG),))
    hook(Probed((Finding(Layer.CANARY, "chat", Reason.OK, "", 0.003),)))
    hook(CanarySent("chat"))
    hook(RecoveryDecided("give up", "3 actions within an hour", dry_run=False))
    hook(RecoveryDecided("act", "MODEL_HUNG", dry_run=True))
    hook(RecoveryDecided("give up", "3 actions within an hour", dry_run=False))
    hook(Reloaded("nothing", "c.toml: no"))
    hook(RecoveryActed("signal", "MODEL_HUNG", 0.1, "no such process"))
    hook(VerdictChanged(UNPROVEN, passing))
    hook(RoleChanged("standby", "primary", 42, "the lock was free"))
    hook(RequestFailed("consul", "session/renew", Unavailable("gone")))
    text = generate_latest(hook.registry).decode()
    for line in (
        'triton_sidecar_verdict{state="passing"} 1.0',
        'triton_sidecar_verdict{state="starting"} 0.0',
        'triton_sidecar_role{role="primary"} 1.0',
        "triton_sidecar_epoch 42.0",
        'triton_sidecar_recovery{outcome="give up"} 1.0',
        'triton_sidecar_recovery_actions_total{result="error"} 1.0',
        'triton_sidecar_canaries_total{model="chat"} 1.0',
        "triton_sidecar_weight_percent 100.0",
        "triton_sidecar_models_unusable 1.0",
        "triton_sidecar_last_reload_successful 0.0",
        'triton_sidecar_layer_level{layer="canary",model="chat"} 0.0',
        (
            'triton_sidecar_request_errors_total{error="Unavailable",operation="session/renew",'
            'system="consul"} 1.0'
        ),
        'triton_sidecar_probe_seconds_count{layer="canary",model="chat",reason="OK"} 1.0',
    ):
        assert line in text
