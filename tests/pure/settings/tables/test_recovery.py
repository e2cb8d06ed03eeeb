"""`[recovery]`: what is accepted, and how a mistake is reported."""

import re
from pathlib import Path

import pytest
from pydantic import SecretStr
from pydantic_settings import BaseSettings

from sidecar.recovery import actions
from sidecar.runtime.errors import ConfigError
from sidecar.settings import sources
from sidecar.settings.tables.core import ConsulSettings
from sidecar.settings.tables.recovery import (
    _KINDS,
    CommandAction,
    ContainerAction,
    NomadAction,
    RecoverySettings,
    SignalAction,
    SystemdAction,
)

pytestmark = pytest.mark.files

ROOT = Path(__file__).parents[4]
ALLOCATION = "5fc98185-17ff-26bc-a802-0c74fa471c99"
TOKENS = 'token = "hush", token_file = "/f"'


class OnlyRecovery(BaseSettings):
    """Settings whose only table is the one whose variables are always read."""

    consul: ConsulSettings = ConsulSettings()
    recovery: RecoverySettings = RecoverySettings()


@pytest.fixture(autouse=True)
def _clean(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("ALLOC_ID", "ADDR", "TOKEN", "CACERT", "CLIENT_CERT", "CLIENT_KEY"):
        monkeypatch.delenv(f"NOMAD_{name}", raising=False)


def load(folder: Path, text: str) -> RecoverySettings:
    path = folder / "sidecar.toml"
    path.write_text(text)
    return sources.load(OnlyRecovery, path, {}, ["consul", "recovery"]).recovery


def test_without_an_action_it_is_off(tmp_path: Path) -> None:
    assert load(tmp_path, "").action is None
    assert load(tmp_path, "[recovery]\nafter = '1m'\n").action is None


@pytest.mark.parametrize(
    ("table", "action"),
    [
        ('{ kind = "systemd", unit = "tritonserver@0.service" }',
         SystemdAction(kind="systemd", unit="tritonserver@0.service")),
        ('{ kind = "systemd", unit = "t", user = true, kill = true, timeout = "1m" }',
         SystemdAction(kind="systemd", unit="t", user=True, kill=True, timeout=60)),
        ('{ kind = "docker", container = "triton" }',
         ContainerAction(kind="docker", container="triton")),
        ('{ kind = "podman", container = "triton-0", kill = true }',
         ContainerAction(kind="podman", container="triton-0", kill=True)),
        (f'{{ kind = "nomad", task = "triton", allocation = "{ALLOCATION}" }}',
         NomadAction(kind="nomad", task="triton", allocation=ALLOCATION)),
        ('{ kind = "command", command = ["/bin/restart it", "--now"] }',
         CommandAction(kind="command", command=("/bin/restart it", "--now"))),
        ('{ kind = "signal", listener = true }', SignalAction(kind="signal", listener=True)),
        ('{ kind = "signal", signal = "TERM", pid_file = "/run/t.pid" }',
         SignalAction(kind="signal", signal="TERM", pid_file=Path("/run/t.pid"))),
    ],
)  # fmt: skip
def test_each_kind_of_action(tmp_path: Path, table: str, action: object) -> None:
    assert load(tmp_path, f"[recovery]\naction = {table}\n").action == action


@pytest.mark.parametrize(
    ("table", "complaint"),
    [
        ('after = "-1s"', "after: expected a duration"),
        ("after = -1", "after: expected at least 0, found -1"),
        ("pause = 0", "pause: expected a duration above zero"),
        ("pause = 20\nmax_pause = 10",
         "max_pause: expected at least pause, which is 20 s, found 10 s"),
        ("budget = 0", "budget: expected at least 1, found 0"),
        ('reasons = ["MODEL_HANG"]',
         "reasons.0: expected a reason code such as MODEL_HUNG, found 'MODEL_HANG'"),
        ('reasons = ["DRAINING"]',
         "reasons.0: expected a reason code that makes an instance critical, found 'DRAINING'"),
        ('reasons = ["OK"]',
         "reasons.0: expected a reason code that makes an instance critical, found 'OK'"),
        ('reasons = ["GPU_UNAVAILABLE"]', "reasons.0: expected a reason code that makes an"),
        ('reasons = ["NOT_PROVEN_YET"]', "reasons.0: expected a reason code that makes an"),
        ('reasons = ["MAINTENANCE"]', "reasons.0: expected a reason code that makes an"),
        ("reasons = []", "reasons: expected at least 1 item, found 0"),
        ("budget = true", "budget: expected a number, found true"),
        ("budget = 1001", "budget: expected at most 1000, found 1001"),
        ("after = 1e300", "after: expected a duration"),
        ('grace = "1 week"', "grace: expected a duration"),
        ('action = { kind = "docker", container = "c", unit = "u" }',
         "action.unit: unknown key"),
        ('action = { kind = "command", command = ["a", ""] }',
         "action.command.1: expected a string that is not empty and has no NUL, found ''"),
        ('action = { kind = "command", command = ["a\\u0000"] }',
         "action.command.0: expected a string that is not empty and has no NUL"),
        ('action = { kind = "command", command = [1] }',
         "action.command.0: expected a string, found 1"),
        ('action = { kind = "command", command = {} }', "action.command: expected a list such as"),
        ('action = { kind = "signal", pid_file = "run/t.pid" }',
         "action.pid_file: expected an absolute path, found 'run/t.pid'"),
        ('kind = "systemd"', "kind: unknown key"),
        ('action = "systemd"', "action: expected a table such as { kind ="),
        ("action = {}",
         "action.kind: expected one of systemd, docker, podman, nomad, command, signal"),
        ('action = { kind = "reboot" }',
         "podman, nomad, command, signal, found 'reboot'"),
        ("action = { kind = [1] }", "action.kind: expected one of"),
        ('action = { kind = "systemd" }', "action.unit: missing; expected a string"),
        ('action = { kind = "systemd", unit = "t", timeout = 0 }',
         "action.timeout: expected a duration above zero"),
        ('action = { kind = "systemd", unit = "--force" }',
         "action.unit: expected a name of letters, digits and _ : . @ -, found '--force'"),
        ('action = { kind = "docker", unit = "t", container = "c" }', "action.unit: unknown key"),
        ('action = { kind = "docker", container = "a b" }', "action.container: expected a name"),
        ('action = { kind = "nomad", task = "t" }',
         "action.allocation: expected an allocation's whole id, or NOMAD_ALLOC_ID"),
        ('action = { kind = "nomad", task = "t", allocation = "5fc98185" }',
         "action.allocation: expected an allocation's whole id"),
        (f'action = {{ kind = "nomad", allocation = "{ALLOCATION}" }}',
         "action.task: missing; expected a string"),
        (f'action = {{ kind = "nomad", task = "t", allocation = "{ALLOCATION}", address = "x" }}',
         "action.address: expected http(s)://host:port or unix:///path, found 'x'"),
        (f'action = {{ kind = "nomad", task = "t", allocation = "{ALLOCATION}", {TOKENS} }}',
         "action: token and token_file: expected one of them, not both"),
        (f'action = {{ kind = "nomad", task = "t", allocation = "{ALLOCATION}", key_file = "/f" }}',
         "action: cert_file and key_file: expected both or none"),
        ('action = { kind = "command", command = "restart triton" }',
         'action.command: expected a list such as ["/usr/local/bin/restart-triton", "0"]'),
        ('action = { kind = "command", command = [] }', "action.command: expected a list such as"),
        ('action = { kind = "signal" }',
         "action: expected exactly one of pid_file and listener = true"),
        ('action = { kind = "signal", listener = true, pid_file = "/f" }',
         "action: expected exactly one of pid_file and listener = true"),
        ('action = { kind = "signal", listener = true, signal = "STOP" }',
         "action.signal: expected 'KILL', 'TERM', 'INT', 'QUIT' or 'ABRT', found 'STOP'"),
    ],
)  # fmt: skip
def test_a_mistake_is_reported_in_one_line(tmp_path: Path, table: str, complaint: str) -> None:
    with pytest.raises(ConfigError) as caught:
        load(tmp_path, f"[recovery]\n{table}\n")
    (line,) = str(caught.value).splitlines()
    assert line.startswith(f"{tmp_path / 'sidecar.toml'}: recovery.")
    assert complaint in line
    assert "hush" not in line


def test_every_mistake_of_an_action_is_reported(tmp_path: Path) -> None:
    with pytest.raises(ConfigError) as caught:
        load(tmp_path, '[recovery]\nbudget = 0\naction = { kind = "systemd", timeout = "x" }\n')
    assert len(str(caught.value).splitlines()) == 3


def test_nomad_s_variables_are_defaults(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in {
        "ALLOC_ID": ALLOCATION,
        "ADDR": "https://10.0.0.1:4646/",
        "TOKEN": "hush",
        "CACERT": "/ca.pem",
        "CLIENT_CERT": "/cert.pem",
        "CLIENT_KEY": "/key.pem",
    }.items():
        monkeypatch.setenv(f"NOMAD_{name}", value)
    nomad = NomadAction(kind="nomad", task="triton")
    assert (nomad.allocation, nomad.address) == (ALLOCATION, "https://10.0.0.1:4646")
    assert nomad.restart.read_token() == "hush"
    assert (nomad.ca_file, nomad.cert_file, nomad.key_file) == (
        Path("/ca.pem"), Path("/cert.pem"), Path("/key.pem"),
    )  # fmt: skip
    assert "hush" not in repr(nomad) + repr(nomad.restart)
    mine = SecretStr("mine")
    explicit = NomadAction(kind="nomad", task="t", address="unix:///run/api.sock", token=mine)
    assert (explicit.address, explicit.restart.read_token()) == ("unix:///run/api.sock", "mine")


def test_a_token_file_is_reloaded_each_time(tmp_path: Path) -> None:
    token = tmp_path / "token"
    nomad = NomadAction(kind="nomad", task="t", allocation=ALLOCATION, token_file=token)
    with pytest.raises(ConfigError, match=r"recovery\.action\.token_file: .*token: No such file"):
        nomad.restart.read_token()
    for broken, complaint in (
        (b"\n", "expected a token in .*, found nothing"),
        (b"\xff", r"recovery\.action\.token_file: "),
    ):
        token.write_bytes(broken)
        with pytest.raises(ConfigError, match=complaint):
            nomad.restart.read_token()
    for content in ("one", "two"):
        token.write_text(f"{content}\n")
        assert nomad.restart.read_token() == content


@pytest.mark.parametrize("key", ["token_file", "ca_file", "cert_file"])
def test_a_missing_file_for_nomad_is_reported_with_its_key(tmp_path: Path, key: str) -> None:
    pair = {"key_file": tmp_path} if key == "cert_file" else {}
    table = {"kind": "nomad", "task": "t", "allocation": ALLOCATION, key: tmp_path / "gone"} | pair
    with pytest.raises(ConfigError) as caught:
        actions.build(NomadAction.model_validate(table).restart, "127.0.0.1:8001")
    assert str(caught.value).startswith(f"recovery.action.{key}: expected ")
    assert str(caught.value).endswith(f"{tmp_path / 'gone'}: No such file or directory")


def test_a_missing_file_that_only_the_environment_names_is_accepted_while_unused(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("NOMAD_CACERT", str(tmp_path / "gone"))
    nomad = NomadAction(kind="nomad", task="t", allocation=ALLOCATION)
    assert actions.build(nomad.restart, "127.0.0.1:8001").name
    used = nomad.model_copy(update={"address": "https://127.0.0.1:4646"})
    with pytest.raises(ConfigError, match=r"recovery\.action\.ca_file: .*: No such file"):
        actions.build(used.restart, "127.0.0.1:8001")


EXAMPLES = re.findall(r"```toml\n(.*?)```", (ROOT / "docs" / "recovery.md").read_text(), re.DOTALL)


@pytest.mark.parametrize("text", EXAMPLES, ids=range(len(EXAMPLES)))
def test_the_examples_for_operators_are_valid(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, text: str
) -> None:
    monkeypatch.setenv("NOMAD_ALLOC_ID", ALLOCATION)
    assert load(tmp_path, text).action is not None


def test_there_is_an_example_of_each_kind() -> None:
    kinds = set(re.findall(r'kind = "(\w+)"', "".join(EXAMPLES)))
    assert kinds | {"podman"} == set(_KINDS)
