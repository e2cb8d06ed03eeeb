"""Scenarios of hosts and networks: cut off, impaired, lost."""

from sidecar.drill.cluster.stage import ClusterStage
from sidecar.drill.injections import hosts
from sidecar.drill.scenario import Expectation, Need, Scenario

_NEEDS: frozenset[Need] = frozenset({"hosts"})
_MOVED = Expectation(moves_role=True, cuts_streams=True)

SCENARIOS: tuple[Scenario[ClusterStage], ...] = (
    Scenario(
        "cut-from-envoy",
        "primary cut off from Envoy",
        "Envoy's own health check of the sidecar and its pings fail, and requests go to a standby. "
        "Consul still sees the instance, which stays primary. No request fails.",
        hosts.cut_off("data"),
        needs=_NEEDS,
        expects=Expectation(cuts_streams=True),
        lasts=10.0,
    ),
    Scenario(
        "cut-from-both",
        "primary cut off from Consul and Envoy",
        "As if its host were lost, but it runs on: a standby becomes primary, and the old one "
        "steps down by its own clock. No request fails.",
        hosts.cut_off("both"),
        needs=_NEEDS,
        expects=_MOVED,
    ),
    Scenario(
        "one-way",
        "primary's host sends and hears nothing",
        "Half a connection is none: Envoy's pings and Consul's probes go unanswered. No request "
        "fails.",
        hosts.deaf("both"),
        needs=_NEEDS,
        expects=_MOVED,
    ),
    Scenario(
        "packet-loss",
        "30 % of the packets between the primary and Envoy lost",
        "TCP retransmits; requests are slow, and none fails.",
        hosts.impaired("data", loss=0.3),
        needs=_NEEDS,
        expects=Expectation(cuts_streams=True),
        lasts=15.0,
    ),
    Scenario(
        "latency",
        "200 ms to and from the primary's host",
        "Requests take 400 ms longer, and none fails.",
        hosts.impaired("both", delay=0.2),
        needs=_NEEDS,
        expects=Expectation(cuts_streams=True),
        lasts=15.0,
    ),
    Scenario(
        "host-parts-killed",
        "sidecar, Consul agent and Triton of the primary killed in a row",
        "A standby becomes primary. No request fails.",
        hosts.killed("sidecar", "agent", "triton"),
        needs=_NEEDS,
        expects=Expectation(cuts_streams=True),
    ),
    Scenario(
        "host-lost",
        "the primary's host loses power",
        "Nothing says goodbye: pings go unanswered, the session lapses, and a standby becomes "
        "primary. No request fails.",
        hosts.lost,
        needs=_NEEDS,
        expects=_MOVED,
    ),
)
