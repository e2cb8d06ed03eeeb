"""`[drill]`: what is understood, and how a mistake is reported."""

from pathlib import Path

import pytest

from sidecar.injection.rules import Fault, InjectionRules
from sidecar.registry.registration import MAX_META
from sidecar.runtime.errors import ConfigError
from sidecar.settings import SidecarSettings, load_sidecar
from tests.support.settings_files import MINIMAL
from tests.support.settings_files import without_consul_variables as without_consul_variables

pytestmark = pytest.mark.files


def load(folder: Path, text: str) -> SidecarSettings:
    path = folder / "sidecar.toml"
    path.write_text(MINIMAL + text)
    return load_sidecar(path)


def test_nothing_is_permitted_by_default(tmp_path: Path) -> None:
    assert load(tmp_path, "").drill.rules == InjectionRules(frozenset(), 60.0)


def test_everything_can_be_set(tmp_path: Path) -> None:
    text = '[drill]\nallow = ["crash", "sidecar-frozen"]\nmax_seconds = "2m"\n'
    rules = load(tmp_path, text).drill.rules
    assert rules == InjectionRules(frozenset({Fault.CRASH, Fault.SIDECAR_FROZEN}), 120.0)


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ('allow = ["mood"]', "drill.allow.0: expected one of crash, freeze, stubs-killed"),
        ("allow = 1", "drill.allow: "),
        ('max_seconds = "0s"', "drill.max_seconds: expected a duration above zero"),
        ('max_seconds = "11m"', "drill.max_seconds: "),
        ("permit = []", "drill.permit: unknown key"),
    ],
)
def test_a_mistake_names_the_key(tmp_path: Path, text: str, complaint: str) -> None:
    with pytest.raises(ConfigError) as caught:
        load(tmp_path, f"[drill]\n{text}\n")
    assert f"sidecar.toml: {complaint}" in str(caught.value)


def test_what_is_permitted_needs_a_place_in_the_meta(tmp_path: Path) -> None:
    pairs = "".join(f"k{number} = 'v'\n" for number in range(MAX_META))
    meta = f"[service.meta]\n{pairs}"
    assert len(load(tmp_path, meta).service.meta) == MAX_META
    with pytest.raises(ConfigError, match=r"service\.meta: expected fewer"):
        load(tmp_path, meta + '[drill]\nallow = ["crash"]\n')
