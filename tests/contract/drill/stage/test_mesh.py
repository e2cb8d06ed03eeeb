"""Operations on a mesh that are refused."""

import os
from pathlib import Path

import pytest

from sidecar.drill.stage.mesh import MeshStage
from sidecar.local import meshfile
from sidecar.local.meshfile import ConsulAddresses, EnvoyAddresses, Mesh, XdsAddresses
from sidecar.runtime.errors import Unavailable


@pytest.mark.parametrize("supervisor", [None, os.getpid()], ids=["none", "this process"])
def test_a_mesh_without_another_supervisor_is_not_left_alone(
    tmp_path: Path, supervisor: int | None
) -> None:
    addresses = ConsulAddresses("", ""), EnvoyAddresses("", ""), XdsAddresses("", "")
    mesh = Mesh(tmp_path, supervisor, *addresses, ())
    (tmp_path / meshfile.NAME).write_text(meshfile.dumps(mesh))
    with pytest.raises(Unavailable, match="supervisor"), MeshStage(tmp_path).unsupervised():
        pass
