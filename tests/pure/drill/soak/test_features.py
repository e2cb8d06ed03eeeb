"""What a soak has switched on is accepted by the programs."""

import json
from dataclasses import replace

import pytest

from sidecar.drill.soak import features, receiver
from sidecar.settings import SidecarSettings, XdsSettings
from sidecar.traffic.document import parse
from sidecar.traffic.policy import Mode, TrafficPolicy
from sidecar.xds.config.cluster_names import generation

POLICIES = [parse(json.dumps(each)) for each in features.POLICIES]


def test_policies_replace_clusters_and_keep_a_primary() -> None:
    generations = {generation(each, quarantine=True) for each in POLICIES}
    assert len(generations) >= 3
    assert {each.mode for each in POLICIES} == {Mode.ACTIVE_STANDBY}
    assert [bool(each.release) for each in POLICIES] == [False, False, False, True]


@pytest.mark.parametrize("policy", POLICIES)
def test_each_policy_has_what_all_have(policy: TrafficPolicy) -> None:
    common = POLICIES[0]
    assert (policy.affinity, policy.locality) == (common.affinity, common.locality)


def test_sidecars_and_the_control_plane_take_the_settings() -> None:
    made = features.settings(receiver.SETTINGS)
    sidecar = SidecarSettings.model_validate({"triton": {"models": ["m"]}, **made.sidecars})
    assert sidecar.drain.rules == replace(sidecar.drain.rules, cut=True, cut_hung_after=1.0)
    assert {each.kind for each in sidecar.receivers.values()} == {"json", "alertmanager"}
    assert XdsSettings.model_validate(made.control_plane).xds.zone == sidecar.service.zone
