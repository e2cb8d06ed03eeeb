"""The designs: what runs where, and what an operator of each does for a planned switchover. Pure.

A design's files are in designs/NAME, as an operator would write them for host-0; `for_host` makes
those of another host, `with_hosts` and `with_third_server` a design with one more. `as_used` is
what people run, `tuned` the same design as good as we could make it.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from sidecar.drill.cluster.layout import EDGE

FOLDER = Path(__file__).parent / "designs"
FRONT = "127.0.0.1:8080"  # as clients at the edge reach a proxy there
VIRTUAL = "10.2.0.100:8001"


@dataclass(frozen=True, slots=True)
class Process:
    """A program that is started in a namespace, in the folder with the design's files there."""

    name: str
    where: str
    argv: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Design:
    """One variant of one design.

    Attributes:
        name: `nginx_backup/as_used`; the design's folder.
        title: a few words for the table.
        tuning: what was tuned; empty if it is as used.
        processes: what runs besides the Tritons.
        address: host:port of the clients, which are at the edge.
        hosts: with one Triton each.
        consul: whether Consul runs, with the service registered by the design's triton.json.
        switchover: the operator's command before maintenance of a host.
        switchover_at: where it is given; empty is on that host.
        setup: a command at the edge once everything runs; none by default.
    """

    name: str
    title: str
    tuning: str = ""
    processes: tuple[Process, ...] = ()
    address: str = FRONT
    hosts: int = 2
    consul: bool = False
    switchover: tuple[str, ...] = ("sh", "switchover.sh")
    switchover_at: str = EDGE
    setup: tuple[str, ...] = ()

    @property
    def ours(self) -> bool:
        """Whether it is this project, as it is by default or otherwise."""
        return self.peer == OURS

    @property
    def peer(self) -> str:
        """The design without the variant."""
        return self.name.partition("/")[0]

    @property
    def namespaces(self) -> frozenset[str]:
        """Where files of the design are needed."""
        hosts = {f"host-{number}" for number in range(self.hosts)} if self.consul else set[str]()
        return frozenset({EDGE, *(one.where for one in self.processes), *hosts})


OURS = "ours"


def _nginx(script: str) -> tuple[Process, ...]:
    command = ("nginx", "-p", ".", "-e", "error.log", "-c", "nginx.conf", "-g", "daemon off;")
    return Process("nginx", EDGE, command), Process("watcher", EDGE, ("sh", script))


def _keepalived() -> tuple[Process, ...]:
    command = (
        *("keepalived", "--dont-fork", "--log-console", "--use-file", "keepalived.conf"),
        *("--pid", "keepalived.pid", "--vrrp_pid", "vrrp.pid"),
    )
    return tuple(Process(f"keepalived-{number}", f"host-{number}", command) for number in range(2))


_HAPROXY = (Process("haproxy", EDGE, ("haproxy", "-db", "-f", "haproxy.cfg")),)
_ENVOY = (
    Process(
        "envoy", EDGE, ("envoy", "-c", "envoy.yaml", "--disable-hot-restart", "--concurrency", "2")
    ),
)
_CADDY = (
    Process("caddy", EDGE, ("caddy", "run", "--config", "Caddyfile", "--adapter", "caddyfile")),
)
CONNECT = "connect"


def _connect() -> tuple[Process, ...]:
    """A sidecar proxy next to each Triton, and one for the clients."""
    command = ("consul", "connect", "envoy", "-ignore-envoy-compatibility", "-sidecar-for")
    where = {EDGE: "clients", "host-0": "triton", "host-1": "triton"}
    return tuple(Process(f"proxy-{place}", place, (*command, of)) for place, of in where.items())


_INFERENCE = "an inference with a known answer each second instead of /v2/health/ready"
_CONSULS = f"Consul's check: {_INFERENCE}"

DESIGNS = (
    Design(
        "nginx_backup/as_used",
        "nginx, primary and backup; a watcher every 30 s",
        processes=_nginx("watch.sh"),
    ),
    Design(
        "nginx_backup/tuned",
        "the same, tuned",
        f"watcher: {_INFERENCE}; nginx: one failure takes a server out for 5 s, all workers share "
        "that, and a request is sent to the second server after an error or 3 s",
        processes=_nginx("watch.sh"),
    ),
    Design(
        "keepalived/as_used",
        "keepalived pair, VIP; process, HTTP and GPU every 5 s",
        processes=_keepalived(),
        address=VIRTUAL,
        switchover_at="",
    ),
    Design(
        "keepalived/tuned",
        "the same, tuned",
        f"scripts: {_INFERENCE}; VRRPv3 with an advertisement every 0.2 s; the address does not "
        "move back",
        processes=_keepalived(),
        address=VIRTUAL,
        switchover_at="",
    ),
    Design(
        "nginx_pair/as_used",
        "nginx, two servers, keepalive 32, read timeout 300 s; a monitor restarts every 30 s",
        processes=_nginx("monitor.sh"),
    ),
    Design(
        "nginx_pair/tuned",
        "the same, tuned",
        f"monitor: {_INFERENCE}, takes a server out after two failures and restarts it at most "
        "once a minute; nginx: least_conn, one failure takes a server out for 5 s, all workers "
        "share that, and a request is sent to the second server after an error or 3 s",
        processes=_nginx("monitor.sh"),
    ),
    Design(
        "nginx_weights/as_used",
        "nginx, weights 3:2:2; a script, 30 s x 3, rewrites upstreams",
        processes=_nginx("health.sh"),
        hosts=3,
    ),
    Design(
        "nginx_weights/tuned",
        "the same, tuned",
        f"script: {_INFERENCE}, twice; nginx: one failure takes a server out for 5 s, all workers "
        "share that, and a request is sent to the second server after an error or 3 s",
        processes=_nginx("health.sh"),
        hosts=3,
    ),
    Design(
        "haproxy/as_used",
        "HAProxy, Consul DNS, HTTP readiness every 1 s",
        processes=_HAPROXY,
        consul=True,
        switchover_at="",
    ),
    Design(
        "haproxy/tuned",
        "the same, tuned",
        f"{_CONSULS}; its own: the same, every 0.5 s; retries on another server after an error or "
        "3 s; sessions of a server that is down are closed; the last DNS answer holds without "
        "Consul",
        processes=_HAPROXY,
        consul=True,
        switchover_at="",
    ),
    Design(
        "envoy/as_used",
        "Envoy, Consul DNS, outlier detection, gRPC health check",
        processes=_ENVOY,
        consul=True,
        switchover_at="",
    ),
    Design(
        "envoy/tuned",
        "the same, tuned",
        f"{_CONSULS}; gRPC check of the model every 0.5 s; retries on another host after an error "
        "or 3 s; HTTP/2 pings; two errors eject a host; DNS every second, and a host that is no "
        "longer in it gets nothing",
        processes=_ENVOY,
        consul=True,
        switchover_at="",
    ),
    Design(
        "caddy/as_used",
        "Caddy, which follows Consul's DNS",
        processes=_CADDY,
        consul=True,
        switchover_at="",
    ),
    Design(
        "caddy/tuned",
        "the same, tuned",
        f"{_CONSULS}; DNS every second; one failure or a 5xx takes a server out for 5 s; requests "
        "are repeated after an error or 3 s",
        processes=_CADDY,
        consul=True,
        switchover_at="",
    ),
    Design(
        f"{CONNECT}/as_used",
        "Consul Connect, an Envoy of Consul next to each Triton and the clients",
        processes=_connect(),
        consul=True,
        switchover_at="",
    ),
    Design(
        f"{CONNECT}/tuned",
        "the same, tuned",
        f"{_CONSULS}; least_request; requests are repeated after an error; two errors eject an "
        "instance for 5 s",
        processes=_connect(),
        consul=True,
        switchover_at="",
    ),
    Design(
        OURS,
        "this project, defaults",
        consul=True,
        switchover=("triton-sidecar", "switchover", "--service", "triton"),
        switchover_at=EDGE,
    ),
    Design(
        f"{OURS}/active_active",
        "this project, mode active-active: it spreads requests, as HAProxy and Envoy do",
        consul=True,
        switchover_at="",
        setup=("triton-sidecar", "policy", "set", "policy.yaml", "--service", "triton"),
    ),
)


def chosen(names: Sequence[str]) -> tuple[Design, ...]:
    """The designs that are meant by names: a variant's, or a design's for all of its variants.

    `ours` is the variant with this project's defaults.
    """
    if not names:
        return DESIGNS
    peers = set(names) - {OURS}
    return tuple(one for one in DESIGNS if one.name in names or one.peer in peers)


def for_host(text: str, number: int, address: str) -> str:
    """A file of host-0 as another host has it."""
    changes = (
        ("router_id host-0", f"router_id host-{number}"),
        ("state MASTER", "state BACKUP" if number else "state MASTER"),
        ("priority 100", f"priority {100 - 10 * number}"),
        ('"address": "10.2.0.21"', f'"address": "{address}"'),
        ("-service=triton-0", f"-service=triton-{number}"),
    )
    for before, after in changes:
        text = text.replace(before, after)
    return text


def with_hosts(design: Design, count: int) -> Design:
    """A design on at least so many hosts; what runs on the second runs on each further one."""
    further = [
        replace(one, name=one.name.replace("1", str(number)), where=f"host-{number}")
        for number in range(design.hosts, count)
        for one in design.processes
        if one.where == "host-1"
    ]
    hosts = max(design.hosts, count)
    return replace(design, hosts=hosts, processes=(*design.processes, *further))


def with_third_server(text: str) -> str:
    """A file with a third server, set like the second one, if it lists servers and lacks that."""
    first, second, third = "10.2.0.21", "10.2.0.22", "10.2.0.23"
    if third in text or first not in text:  # the second alone is a host's own address
        return text
    lines = []
    for line in text.splitlines(keepends=True):
        if f"10.2.0.21 {second}" in line:
            lines.append(line.replace(second, f"{second} {third}"))
        else:
            lines += [line, line.replace(second, third)] if second in line else [line]
    return "".join(lines)


# What is not measured, and why.
MISSING = {
    "Traefik, fabio": "no Debian release has them, and neither can be built from the modules that "
    "Go's proxy offered",
}
