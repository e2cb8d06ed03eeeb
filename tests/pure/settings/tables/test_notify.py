"""`[hooks]` and `[notify.NAME]`: what is accepted, and how a mistake is reported."""

import json
from pathlib import Path

import pytest
from pydantic_settings import BaseSettings, SettingsConfigDict

from sidecar.notify.notifier import check
from sidecar.runtime.errors import ConfigError
from sidecar.settings import sources
from sidecar.settings.tables.core import ConsulSettings
from sidecar.settings.tables.notify import HooksSettings, NotifySettings
from sidecar.settings.values import Name

pytestmark = pytest.mark.files

URL = "url = 'http://127.0.0.1:9093/api/v2/alerts'\n"


class OnlyNotify(BaseSettings):
    """Settings whose only table is the one whose variables are always read."""

    model_config = SettingsConfigDict(env_prefix=sources.ENV_PREFIX, env_nested_delimiter="__")

    consul: ConsulSettings = ConsulSettings()
    hooks: HooksSettings = HooksSettings()
    notify: dict[Name, NotifySettings] = {}


def load(folder: Path, text: str) -> OnlyNotify:
    path = folder / "sidecar.toml"
    path.write_text(text)
    return sources.load(OnlyNotify, path, {}, ["consul", "hooks", "notify"])


def test_there_are_no_receivers_by_default(tmp_path: Path) -> None:
    settings = load(tmp_path, "")
    assert settings.hooks.rules.commands == {}
    assert settings.notify == {}


def test_everything_can_be_set(tmp_path: Path) -> None:
    settings = load(
        tmp_path,
        '[hooks]\non_role_change = ["/bin/page", "--quiet"]\ntimeout = "2s"\n'
        f'[notify.pager]\n{URL}kind = "alertmanager"\non = ["verdict"]\ntoken = "hush-hush"\n'
        'headers = { X-Scope-OrgID = "team" }\ntimeout = "3s"\nretries = 0\nresend = "5m"\n',
    )
    assert settings.hooks.rules.commands == {"on_role_change": ("/bin/page", "--quiet")}
    assert settings.hooks.timeout == 2
    pager = settings.notify["pager"]
    assert (pager.kind, pager.on, pager.retries, pager.resend) == (
        "alertmanager", ("verdict",), 0, 300,
    )  # fmt: skip
    assert pager.receiver.read_token("notify.pager") == "hush-hush"
    assert pager.headers["X-Scope-OrgID"].get_secret_value() == "team"


def test_a_target_can_be_set_in_the_environment(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TRITON_SIDECAR_NOTIFY__PAGER__TOKEN", "hush-hush")
    settings = load(tmp_path, f"[notify.pager]\n{URL}")
    assert settings.notify["pager"].receiver.read_token("notify.pager") == "hush-hush"


def test_printed_settings_contain_no_secret(tmp_path: Path) -> None:
    settings = load(
        tmp_path,
        '[notify.chat]\nurl = "https://chat.example/hook/hush-a"\ntoken = "hush-b"\n'
        'headers = { X-Key = "hush-c" }\n',
    )
    printed = settings.model_dump_json()
    assert "hush" not in printed
    assert json.loads(printed)["notify"]["chat"]["kind"] == "json"


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ('[hooks]\non_role_change = "page"', "hooks.on_role_change: expected a list such as"),
        ("[hooks]\non_role_change = []", "hooks.on_role_change: expected a list such as"),
        ('[hooks]\non_role_change = ["page", ""]', "hooks.on_role_change.1: expected a string"),
        ("[hooks]\non_rolechange = []", "hooks.on_rolechange: unknown key"),
        ("[hooks]\ntimeout = 0", "hooks.timeout: expected a duration above zero"),
        ("[notify.x]\nkind = 'json'", "notify.x.url: missing; expected a string"),
        (f"[notify.x]\n{URL}kind = 'slack'", "notify.x.kind: expected 'alertmanager' or 'json'"),
        (f"[notify.x]\n{URL}on = ['mood']", "notify.x.on.0: expected 'role', 'verdict' or 'drill'"),
        (f"[notify.x]\n{URL}on = []", "notify.x.on: expected at least 1 item"),
        (f"[notify.x]\n{URL}colour = 1", "notify.x.colour: unknown key"),
        (f"[[notify]]\n{URL}", "notify: expected a table"),
        ("[notify.x]\nurl = 'ftp://hush/'", "notify.x.url: expected http(s)://host[:port]/path"),
        ("[notify.x]\nurl = 'http://hush:hush@h/'", "notify.x.url: expected no user and password"),
        ("[notify.x]\nurl = 'http://hush:99999/'", "notify.x.url: expected http(s)://"),
        ('[notify.x]\nurl = "http://hush/\\n"', "notify.x.url: expected http(s)://"),
        (f"[notify.x]\n{URL}token = 'hush'\ntoken_file = '/f'",
         "notify.x: token and token_file: expected one of them, not both"),
        (f"[notify.x]\n{URL}token = 'hush'\nheaders = {{ authorization = 'hush' }}",
         "notify.x.headers: expected no Authorization with a token"),
        (f'[notify.x]\n{URL}headers = {{ X-Key = "hush\\n" }}',
         "notify.x.headers: X-Key: expected a line of text"),
        (f"[notify.x]\n{URL}headers = {{ 'X Key' = 'hush' }}", "notify.x.headers: expected names"),
        (f"[notify.x]\n{URL}headers = {{ Host = 'hush' }}", "notify.x.headers: expected names"),
        (f"[notify.x]\n{URL}headers = 'hush'", "notify.x.headers: expected a table of headers"),
    ],
)  # fmt: skip
def test_mistakes_name_the_key_and_no_secret(tmp_path: Path, text: str, complaint: str) -> None:
    with pytest.raises(ConfigError) as caught:
        load(tmp_path, text)
    assert f"sidecar.toml: {complaint}" in str(caught.value)
    assert "hush" not in str(caught.value)
    assert len(str(caught.value).splitlines()) == 1


def test_missing_keys_are_reported_at_once(tmp_path: Path) -> None:
    program, token, empty = tmp_path / "page", tmp_path / "token", tmp_path / "empty"
    empty.write_text("\n")
    settings = load(
        tmp_path,
        f'[hooks]\non_role_change = ["{program}"]\non_verdict_change = ["true"]\n'
        f"[notify.a]\n{URL}token_file = '{token}'\n[notify.b]\n{URL}token_file = '{empty}'\n"
        f"[notify.c]\n{URL}ca_file = '{empty}'\n",
    )
    with pytest.raises(ConfigError) as caught:
        check(settings.hooks.rules, {name: each.receiver for name, each in settings.notify.items()})
    lines = str(caught.value).splitlines()
    assert lines[0].startswith("hooks.on_role_change: expected a program that can be run, found")
    keys = ("a.token_file", "b.token_file", "c.ca_file")
    for line, key, file in zip(lines[1:], keys, (token, empty, empty), strict=True):
        assert line.startswith(f"notify.{key}: ")
        assert str(file) in line


def test_a_token_is_reloaded(tmp_path: Path) -> None:
    path = tmp_path / "token"
    path.write_text("first\n")
    pager = load(tmp_path, f"[notify.pager]\n{URL}token_file = '{path}'\n").notify["pager"]
    assert pager.receiver.read_token("notify.pager") == "first"
    path.write_text("second\n")
    assert pager.receiver.read_token("notify.pager") == "second"
