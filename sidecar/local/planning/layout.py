"""The layout of a local mesh: from ports, programs and options to the plan of all parts.

Acts: through what it imports or is given.
"""

import re
from collections.abc import Iterable, Mapping
from pathlib import Path

from sidecar.local.planning import configs
from sidecar.local.planning.plan import (
    SERVICE,
    InstancePorts,
    MeshOptions,
    Part,
    Plan,
    Ports,
    Probe,
    Programs,
    Sources,
    instance_id,
    loopback,
    token_file,
)
from sidecar.local.processes.identity import MARK

# In the folder of an instance.
_MODELS, _BACKENDS, _CACHES = "models", "backends", "caches"
_CACHE_SIZE = 16 << 20  # bytes, for models that enable response_cache

# Settings that identify a part: those of the user's shell must not reach it. Settings that all
# parts share (TRITON_SIDECAR_LOG__LEVEL, TRITON_SIDECAR_HEALTH__…) may.
_FOREIGN = re.compile(
    r"CONSUL_.*|TRITON_SIDECAR_(CONSUL|SERVICE|LISTEN|XDS|ENVOY|CANARY)__.*|PYTHONPATH"
    r"|TRITON_SIDECAR_TRITON__(?!REPOSITORY_INTERVAL$).*"
)


def build(
    mesh_id: str,
    options: MeshOptions,
    ports: Ports,
    programs: Programs,
    sources: Sources,
    environ: Mapping[str, str],
    acl: Mapping[str, object],
) -> Plan:
    """The plan of a mesh.

    Args:
        mesh_id: distinguishes this mesh from all others on the machine.
        options: those of `local up`.
        ports: one for each purpose, for `options.instances` instances.
        programs: what to start.
        sources: the contents of the assets.
        environ: the environment from which those of the parts are derived.
        acl: the ACL part of Consul's configuration; empty without ACLs.
    """
    draft = _Draft(mesh_id, options, ports, programs, _environment(environ, mesh_id))
    numbers = range(options.instances)
    models, canaries = sources.models, {name: own.canary for name, own in sources.models.items()}
    tritons = [
        draft.triton(number, () if options.is_cold(number) else models) for number in numbers
    ]
    parts = [draft.consul(), *tritons, *map(draft.sidecar, numbers)]
    files = {
        draft.folder / "consul.json": configs.consul(
            mesh_id, draft.folder / "consul", ports, programs.consul_version, acl
        ),
        draft.folder / "xds.toml": configs.xds(
            SERVICE, mesh_id, ports, token_file(options, "control_plane")
        ),
        draft.folder / "envoy.yaml": configs.envoy(sources.envoy_bootstrap, mesh_id, ports),
    }
    for number in numbers:
        files[draft.home(number) / "sidecar.toml"] = configs.sidecar(
            (SERVICE, instance_id(number)),
            ports,
            number,
            canaries,
            token_file(options, "sidecar"),
            cold=options.is_cold(number),
        )
    homes = tuple(map(draft.home, numbers))
    shared = {_BACKENDS: programs.triton.backends}
    if programs.triton.caches is not None:
        shared[_CACHES] = programs.triton.caches
    return Plan(
        id=mesh_id,
        options=options,
        ports=ports,
        parts=(*parts, draft.xds(), draft.envoy()),
        files=files,
        copies={
            home / _MODELS / name: own.folder for home in homes for name, own in models.items()
        },
        links={home / name: target for home in homes for name, target in shared.items()},
    )


class _Draft:
    """Builds the parts of one plan."""

    def __init__(
        self,
        mesh_id: str,
        options: MeshOptions,
        ports: Ports,
        programs: Programs,
        env: Mapping[str, str],
    ) -> None:
        self.mesh_id, self.options, self.ports = mesh_id, options, ports
        self.programs, self.env, self.folder = programs, env, options.folder

    def python_env(self) -> dict[str, str]:
        own = {"PYTHONPATH": str(self.programs.checkout)} if self.programs.checkout else {}
        return {**self.env, **own, "PYTHONUNBUFFERED": "1"}

    def home(self, number: int) -> Path:
        return self.folder / instance_id(number)

    def log(self, name: str) -> Path:
        return self.folder / "logs" / f"{name}.log"

    def consul(self) -> Part:
        address = loopback(self.ports.consul_http)
        config = self.folder / "consul.json"
        return Part(
            name="consul",
            kind="consul",
            argv=(str(self.programs.consul), "agent", "-ui", f"-config-file={config}"),
            env=self.env,
            cwd=self.folder,
            log=self.log("consul"),
            address=address,
            probe=Probe("consul", f"http://{address}"),
        )

    def triton(self, number: int, models: Iterable[str]) -> Part:
        own, triton = self.ports.instances[number], self.programs.triton
        prefix = shm_prefix(self.mesh_id, number)
        name = instance_id(number)
        return Part(
            name=name,
            kind="triton",
            argv=(str(triton.binary), *_triton_flags(name, own, prefix, models), *self.cache()),
            # tinychat tells the clients that ask for it which instance answers.
            env=triton.environment({**self.env, "TINYCHAT_INSTANCE": name}),
            cwd=self.home(number),
            log=self.log(name),
            address=loopback(own.triton_grpc),
            probe=Probe("http", f"http://{loopback(own.triton_http)}/v2/health/ready"),
            start_timeout=180.0,
            stop_timeout=15.0,  # longer than --exit-timeout-secs
            shm_prefix=prefix,
        )

    def cache(self) -> tuple[str, ...]:
        """The flags for a response cache, where Triton has one."""
        if self.programs.triton.caches is None:
            return ()
        return f"--cache-directory={_CACHES}", f"--cache-config=local,size={_CACHE_SIZE}"

    def sidecar(self, number: int) -> Part:
        own, name = self.ports.instances[number], f"sidecar-{number}"
        config = self.home(number) / "sidecar.toml"
        return Part(
            name=name,
            kind="sidecar",
            argv=(str(self.programs.python), "-m", "sidecar", "run", "--config", str(config)),
            env=self.python_env(),
            cwd=self.home(number),
            log=self.log(name),
            address=loopback(own.sidecar_grpc),
            probe=Probe("health", loopback(own.sidecar_grpc)),
            after=("consul",),
            stop_timeout=40.0,  # longer than its drain.timeout
        )

    def xds(self) -> Part:
        address, config = loopback(self.ports.xds), self.folder / "xds.toml"
        return Part(
            name="xds",
            kind="xds",
            argv=(str(self.programs.python), "-m", "sidecar", "xds", "--config", str(config)),
            env=self.python_env(),
            cwd=self.folder,
            log=self.log("xds"),
            address=address,
            probe=Probe("tcp", address),
            after=("consul",),
        )

    def envoy(self) -> Part:
        flags = (
            *("--disable-hot-restart", "--concurrency", str(self.options.envoy_concurrency)),
            # Otherwise it logs five lines for each stream that is routed by its model.
            *("--component-log-level", "misc:warning"),
        )
        config = self.folder / "envoy.yaml"
        return Part(
            name="envoy",
            kind="envoy",
            argv=(str(self.programs.envoy), "-c", str(config), *flags),
            env=self.env,
            cwd=self.folder,
            log=self.log("envoy"),
            address=loopback(self.ports.envoy),
            probe=Probe("http", f"http://{loopback(self.ports.envoy_admin)}/ready"),
            after=("xds",),
        )


def shm_prefix(mesh_id: str, number: int) -> str:
    """The prefix of the names of a Triton's shared memory regions.

    The backend appends a UUID, so the separator distinguishes instance 1 from instance 10.
    """
    return f"triton-sidecar-{mesh_id}-{number}-"


def _triton_flags(
    name: str, own: InstancePorts, prefix: str, models: Iterable[str]
) -> tuple[str, ...]:
    return (
        f"--id={name}",
        # Both relative to its folder: the Python backend passes them to its stubs in one line that
        # is split at spaces.
        f"--model-repository={_MODELS}",
        f"--backend-directory={_BACKENDS}",
        # So that models can be loaded and unloaded while it runs.
        "--model-control-mode=explicit",
        *(f"--load-model={model}" for model in models),
        "--grpc-address=127.0.0.1",
        f"--grpc-port={own.triton_grpc}",
        "--http-address=127.0.0.1",
        f"--http-port={own.triton_http}",
        "--allow-metrics=true",
        "--metrics-address=127.0.0.1",
        f"--metrics-port={own.triton_metrics}",
        f"--backend-config=python,shm-region-prefix-name={prefix}",
        # Envoy pings each connection twice a second to detect a frozen Triton; by default more
        # than one ping in five minutes counts as an attack and closes the connection.
        "--grpc-http2-max-ping-strikes=0",
        "--exit-timeout-secs=5",
        "--log-info=false",
        "--log-verbose=0",
    )


def _environment(environ: Mapping[str, str], mesh_id: str) -> dict[str, str]:
    kept = {key: value for key, value in environ.items() if not _FOREIGN.fullmatch(key)}
    # gRPC would send even loopback traffic through a proxy.
    for key in ("no_proxy", "NO_PROXY"):
        kept[key] = ",".join(filter(None, (kept.get(key), "127.0.0.1,localhost")))
    return {**kept, MARK: mesh_id}
