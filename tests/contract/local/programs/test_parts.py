import os
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

from sidecar.local.programs import debian, parts, wheels
from sidecar.runtime.errors import ConfigError, PartMissing, Unavailable

MODERN = """\
MetaKey: main/binary-amd64/Packages
Codename: stable-two
Origin: Debian
Created-By: Packages
Repo-URI: http://mirror.example/debian/
Signed-By: /usr/share/keyrings/archive.gpg

MetaKey: main/dep11/Components-amd64.yml
Codename: stable-two
Origin: Debian
Created-By: DEP-11
Repo-URI: http://mirror.example/other/

MetaKey: main/binary-amd64/Packages
Codename: stable-two-security
Origin: Debian
Created-By: Packages
Repo-URI: http://mirror.example/debian-security/

MetaKey: main/binary-amd64/Packages
Codename: stable-two-updates
Origin: Debian
Created-By: Packages
Repo-URI: http://mirror.example/debian/

MetaKey: main/binary-amd64/Packages
Codename: nodistro
Origin: Somebody
Created-By: Packages
Repo-URI: http://vendor.example/apt/
"""


def program(folder: Path, name: str, answer: str) -> Path:
    path = folder / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(f"#!/bin/sh\necho '{answer}'\n")
    path.chmod(0o755)
    return path


@pytest.fixture
def bare(tmp_path: Path) -> dict[str, str]:
    """An environment without any part, in a folder whose name contains a space."""
    return {"PATH": str(tmp_path / "bin"), "TRITON_SIDECAR_PARTS": str(tmp_path / "my parts")}


class TestIndexTargets:
    def test_takes_only_the_releases_of_debian(self) -> None:
        assert debian.parse_indextargets(MODERN) == (
            debian.Archive(
                "http://mirror.example/debian/", Path("/usr/share/keyrings/archive.gpg")
            ),
        )

    @pytest.mark.parametrize(
        "signed_by",
        ["", "Signed-By:", "Signed-By: 0123ABCD", "Signed-By: /a.gpg,/b.gpg"],
        ids=["absent", "empty", "fingerprint", "several"],
    )
    def test_skips_a_keyring_that_is_not_a_single_path(self, signed_by: str) -> None:
        text = f"Created-By: Packages\nCodename: x\nRepo-URI: http://m.example/d\n{signed_by}\n"
        assert debian.parse_indextargets(text) == (debian.Archive("http://m.example/d", None),)

    def test_a_new_container_has_no_origin_yet(self) -> None:
        text = "Created-By: Packages\nRelease: x\nRepo-URI: http://m.example/d\n"
        assert [archive.uri for archive in debian.parse_indextargets(text)] == [
            "http://m.example/d"
        ]

    @pytest.mark.parametrize("text", ["", "\n\n", "nonsense"])
    def test_no_targets_give_no_sources(self, text: str) -> None:
        assert debian.parse_indextargets(text) == ()

    def test_ignores_a_cdrom(self) -> None:
        text = "Created-By: Packages\nCodename: x\nRepo-URI: cdrom:[Debian]/\n"
        assert debian.parse_indextargets(text) == ()

    def test_source_line(self) -> None:
        assert debian.Archive("http://m.example/d", None).source("old") == (
            "deb http://m.example/d old main\n"
        )
        assert debian.Archive("http://m.example/d", Path("/k.gpg")).source("old") == (
            "deb [signed-by=/k.gpg] http://m.example/d old main\n"
        )


class TestOverride:
    @pytest.mark.parametrize(
        ("name", "variable"),
        [("consul", "CONSUL_BIN"), ("envoy", "ENVOY_BIN"), ("tritonserver", "TRITONSERVER_BIN")],
    )
    def test_takes_precedence(
        self, bare: dict[str, str], tmp_path: Path, name: str, variable: str
    ) -> None:
        program(tmp_path / "bin", name, "another")
        mine = program(tmp_path / "my own", name, "mine")
        assert parts.find(name, {**bare, variable: str(mine)}) == mine

    @pytest.mark.parametrize("kind", ["absent", "folder", "not executable"])
    def test_of_a_file_that_is_no_program_is_rejected(
        self, bare: dict[str, str], tmp_path: Path, kind: str
    ) -> None:
        path = tmp_path / "envoy"
        if kind == "folder":
            path.mkdir()
        elif kind == "not executable":
            path.write_text("text")
        with pytest.raises(PartMissing, match=r"^envoy: ENVOY_BIN=.*/envoy is not an executable"):
            parts.find("envoy", {**bare, "ENVOY_BIN": str(path)})

    def test_of_a_program_without_a_version_is_rejected(
        self, bare: dict[str, str], tmp_path: Path
    ) -> None:
        other = program(tmp_path, "consul", "I am a teapot")
        with pytest.raises(PartMissing, match="I am a teapot"):
            parts.provide("consul", {**bare, "CONSUL_BIN": str(other)})

    def test_of_a_working_program_is_used_without_a_download(
        self, bare: dict[str, str], tmp_path: Path
    ) -> None:
        mine = program(tmp_path, "consul", "Consul v1.99")
        assert parts.provide("consul", {**bare, "CONSUL_BIN": str(mine)}) == mine
        assert not Path(bare["TRITON_SIDECAR_PARTS"]).exists()

    def test_triton_keeps_its_own_layout(self, bare: dict[str, str], tmp_path: Path) -> None:
        binary = program(tmp_path / "tritonserver", "bin/tritonserver", "")
        environ = {**bare, "TRITONSERVER_BIN": str(binary)}
        with pytest.raises(PartMissing, match=r"has no folder .*/tritonserver/backends"):
            parts.triton(environ)
        backends = tmp_path / "tritonserver" / "backends"
        backends.mkdir()
        assert parts.triton(environ) == parts.TritonParts(binary, backends, ())
        (caches := tmp_path / "tritonserver" / "caches").joinpath("local").mkdir(parents=True)
        assert parts.triton(environ) == parts.TritonParts(binary, backends, (), caches=caches)


class TestFind:
    def test_consul_on_path_is_used(self, bare: dict[str, str], tmp_path: Path) -> None:
        found = program(tmp_path / "bin", "consul", "")
        assert parts.find("consul", bare) == found

    def test_envoy_on_path_is_not_used(self, bare: dict[str, str], tmp_path: Path) -> None:
        program(tmp_path / "bin", "envoy", "")
        with pytest.raises(PartMissing):
            parts.find("envoy", bare)

    @pytest.mark.parametrize("name", parts.NAMES)
    def test_a_missing_part_is_named_with_the_reason_and_the_fix(
        self, bare: dict[str, str], name: str
    ) -> None:
        with pytest.raises(PartMissing) as raised:
            parts.find(name, bare)
        message = str(raised.value)
        assert message.startswith(f"{name}: ")
        assert f"{bare['TRITON_SIDECAR_PARTS']}/" in message
        assert f"_BIN=/path/to/{name}" in message

    def test_an_unknown_part_is_rejected(self, bare: dict[str, str]) -> None:
        with pytest.raises(PartMissing, match="expected one of consul, envoy, tritonserver"):
            parts.find("nginx", bare)

    def test_a_failed_download_is_one_message_and_leaves_no_files(
        self, bare: dict[str, str], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        def refuse(package: str, into: Path, work: Path, suite: str | None = None) -> None:
            raise Unavailable("the archive is gone")

        monkeypatch.setattr(debian, "fetch", refuse)
        with pytest.raises(PartMissing, match=r"(?s)^consul: .*archive is gone.*CONSUL_BIN="):
            parts.provide("consul", bare)
        assert list(Path(bare["TRITON_SIDECAR_PARTS"]).iterdir()) == []

    def test_a_part_is_downloaded_once_into_a_new_folder(
        self, bare: dict[str, str], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        calls: list[str] = []

        def deliver(package: str, into: Path, work: Path, suite: str | None = None) -> None:
            calls.append(package)
            program(into, "usr/bin/consul", "Consul v1.8.7")
            (work / "scraps").write_text("")

        monkeypatch.setattr(debian, "fetch", deliver)
        first = parts.provide("consul", bare)
        assert parts.provide("consul", bare) == first == parts.find("consul", bare)
        assert calls == ["consul"]
        assert [path.name for path in Path(bare["TRITON_SIDECAR_PARTS"]).iterdir()] == [
            first.parents[2].name
        ]


class TestTritonEnvironment:
    def test_tritons_libraries_come_first(self) -> None:
        triton = parts.TritonParts(Path("/t"), Path("/b"), (Path("/l one"), Path("/l2")))
        assert triton.environment({"A": "b"}) == {"A": "b", "LD_LIBRARY_PATH": "/l one:/l2"}
        assert triton.environment({"LD_LIBRARY_PATH": "/x"}) == {"LD_LIBRARY_PATH": "/l one:/l2:/x"}

    def test_models_can_import_the_packages_of_the_interpreter(self) -> None:
        triton = parts.TritonParts(Path("/t"), Path("/b"), (), Path("/venv/bin"))
        assert triton.environment({"PATH": "/bin"}) == {"PATH": "/venv/bin:/bin"}

    def test_a_triton_of_the_users_runs_without_changes(self) -> None:
        assert parts.TritonParts(Path("/t"), Path("/b"), ()).environment({"A": "b"}) == {"A": "b"}


class TestPins:
    LOCK = (
        "one==1.2 \\\n    --hash=sha256:aa \\\n    --hash=sha256:bb\n"
        "only==3\n"
        "two==4 \\\n    --hash=sha256:cc\n"
    )

    def test_an_entry_has_all_its_hashes(self, tmp_path: Path) -> None:
        lock = tmp_path / "a.lock"
        lock.write_text(self.LOCK)
        pin = wheels.read_pin(lock, "one")
        assert (pin.version, pin.text.count("--hash")) == ("1.2", 2)
        assert "only" not in pin.text
        assert wheels.read_pin(lock, "two").version == "4"

    @pytest.mark.parametrize("name", ["three", "only"])
    def test_an_entry_without_hashes_is_rejected(self, tmp_path: Path, name: str) -> None:
        lock = tmp_path / "a.lock"
        lock.write_text(self.LOCK)
        with pytest.raises(ConfigError, match=f"a.lock: expected an entry {name}==VERSION"):
            wheels.read_pin(lock, name)

    def test_a_missing_lock_file_is_reported(self, tmp_path: Path) -> None:
        with pytest.raises(ConfigError, match=r"b\.lock: cannot be read"):
            wheels.read_pin(tmp_path / "b.lock", "one")

    def test_unpacks_only_the_wanted_files(self, tmp_path: Path) -> None:
        wheel = tmp_path / "a.whl"
        with zipfile.ZipFile(wheel, "w") as archive:
            archive.writestr("keep/a", "a")
            archive.writestr("drop/b", "b")
        wheels.unpack(wheel, tmp_path / "out", lambda name: name.startswith("keep/"))
        assert [path.name for path in (tmp_path / "out").rglob("*")] == ["keep", "a"]


class TestLocks:
    REQUIREMENTS = Path(__file__).parents[4] / "requirements"

    @pytest.mark.parametrize("name", ["build", "dev", "parts", "runtime"])
    def test_have_hashes_and_no_urls(self, name: str) -> None:
        text = (self.REQUIREMENTS / f"{name}.lock").read_text()
        assert "://" not in text
        assert "index-url" not in text
        entries = [line for line in text.splitlines() if line and line[0] not in " #"]
        assert all(line.endswith("\\") for line in entries)

    def test_the_runtime_lock_is_a_subset_of_the_dev_lock(self) -> None:
        def pins(name: str) -> set[str]:
            lines = (self.REQUIREMENTS / f"{name}.lock").read_text().splitlines()
            return {line.rstrip("\\ ") for line in lines if "==" in line and line[0] != " "}

        assert pins("runtime") <= pins("dev")

    def test_data_folders_in_the_root_shadow_no_package(self) -> None:
        root = self.REQUIREMENTS.parent
        assert [
            path for name in ("consul", "envoy") for path in (root / name).glob("__init__.py*")
        ] == []


def test_parts_need_no_virtual_environment() -> None:
    """The modules run before it exists, so they import only the standard library."""
    script = "import sys; import sidecar.local.programs.parts; print(*sys.modules)"
    root = Path(__file__).parents[4]
    environ = {"PATH": os.environ["PATH"], "PYTHONPATH": str(root)}
    done = subprocess.run(
        [sys.executable, "-S", "-c", script], env=environ, capture_output=True, check=True
    )
    tops = {name.partition(".")[0] for name in done.stdout.decode().split()}
    assert tops - set(sys.stdlib_module_names) - {"__main__"} == {"sidecar"}


@pytest.mark.parametrize(
    ("said", "release", "version"),
    [
        ("Consul v1.8.7+dfsg1\nProtocol 2", "1.8.7+dfsg1", (1, 8)),
        ("Consul v1.23.0-dev\nBuild Date", "1.23.0-dev", (1, 23)),
    ],
)
def test_the_release_and_version_of_a_consul(
    tmp_path: Path, said: str, release: str, version: tuple[int, int]
) -> None:
    consul = program(tmp_path, "consul", said)
    assert parts.consul_release(consul) == release
    assert parts.consul_version(consul) == version


def test_a_program_that_is_not_consul_has_no_version(tmp_path: Path) -> None:
    with pytest.raises(PartMissing, match="said: hello"):
        parts.consul_version(program(tmp_path, "consul", "hello"))
    with pytest.raises(PartMissing):
        parts.consul_version(tmp_path / "nothing")
