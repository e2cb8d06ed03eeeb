"""Options that are rejected, an unreachable Consul, and the service that a settings file names."""

import json
from pathlib import Path

import pytest

from tests.support.operator_rig import Run
from tests.support.operator_rig import run as run
from tests.support.operator_rig import scene as scene

pytestmark = pytest.mark.contract


@pytest.mark.parametrize(
    ("arguments", "status", "why"),
    [
        (("list", "--mesh=x", "--config=y"), 2, "expected --mesh or --config, not both"),
        (("list", "--mesh=/nowhere"), 2, "/nowhere: "),
        (("list", "--config=/nowhere.toml"), 2, "/nowhere.toml: "),
        (("switchover", "--at=soon"), 2, "--at: expected a time"),
        (("switchover", "--in=soon"), 2, "--in: expected a duration"),
        (("switchover", "--in=5"), 2, "--in: expected a unit, such as 5s or 5m, found '5'"),
        (("pause", "--for=2"), 2, "--for: expected a unit, such as 2s or 2m, found '2'"),
        (("switchover", "--timeout=60"), 2, "--timeout: expected a unit, such as 60s or 60m"),
        (("switchover", "--service=nobody", "--in=2d"), 1, "instance of nobody"),
        (("switchover", "--in=0s"), 2, "--in: expected a duration"),
        (("switchover", "--in=1m", "--at=03:00"), 2, "expected --at or --in, not both"),
        (("switchover", "--timeout=x"), 2, "--timeout: expected a duration"),
        (("pause", "--for=ever"), 2, "--for: expected a duration"),
        (("list", "--service=bad name"), 2, "--service: expected"),
        (("list", "--service="), 2, "--service: expected"),
        (("list", "--service=a/b", "--mesh=/nowhere"), 2, "--service: expected"),
        (("switchover", "--service=nobody"), 1, "instance of nobody"),
        (("failover", "--force"), 2, "expected --yes with --force: there is no terminal to ask"),
        (("failover", "--force", "--yes", "--service=nobody"), 1, "instance of nobody"),
        (("list", "--service=nobody"), 1, "(Consul lists no instance of nobody;"),
        (("history", "--service=nobody"), 1, "nobody: no such"),
        (("flush", "switchover", "--service=nobody"), 1, "nobody: no such"),
        (("failover", "--service=nobody", "--to=x"), 1, "x: no such"),
    ],
)
def test_rejected_commands_and_invalid_arguments(
    run: Run, arguments: tuple[str, ...], status: int, why: str
) -> None:
    result = run(*arguments, "--json")
    assert result.exit_code == status, result.output
    document = json.loads(result.stdout)
    assert document["done"] is False
    assert why in document["why"]
    assert why in result.stderr


def test_an_unreachable_consul_is_exit_status_3(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CONSUL_HTTP_ADDR", "127.0.0.1:1")
    for verb in (["list"], ["history"], ["resume"], ["pause"], ["flush", "switchover"]):
        result = run(*verb, "--json")
        assert result.exit_code == 3, verb
        assert json.loads(result.stdout)["done"] is False


def test_the_service_is_read_from_a_settings_file(run: Run, tmp_path: Path) -> None:
    def service(*arguments: str) -> str:
        why: str = json.loads(run(*arguments, "--json").stdout)["why"]
        return why.partition(": no such service")[0]

    file = tmp_path / "xds.toml"
    file.write_text('[xds]\nservices = ["chat"]\n[envoy]\nlisten = "0.0.0.0:1"\n')
    assert service("list", f"--config={file}") == "chat"
    file.write_text('[xds]\nservices = ["chat", "speech"]\n')
    result = run("list", f"--config={file}")
    assert result.exit_code == 2
    assert "expected --service, which is one of chat, speech" in result.stderr
    assert service("list", f"--config={file}", "--service=speech") == "speech"
    file.write_text(
        '[service]\nname = "chat"\n[triton]\nmodels = ["a"]\ncanaries = ["gone.toml"]\n'
    )
    assert service("list", f"--config={file}") == "chat"
