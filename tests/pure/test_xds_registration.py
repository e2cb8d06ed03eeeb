import pytest

from sidecar.errors import ConfigError
from sidecar.settings import ControlPlaneSettings
from sidecar.xds.registration import registration


def settings(**changes: str) -> ControlPlaneSettings:
    return ControlPlaneSettings.model_validate({"id": "xds-0", **changes})


@pytest.mark.parametrize(
    ("changes", "address", "dialled"),
    [
        ({"listen": "10.0.0.1:18000"}, "10.0.0.1", "10.0.0.1:18000"),
        ({"listen": "0.0.0.0:18000", "advertise": "10.0.0.2"}, "10.0.0.2", "10.0.0.2:18000"),
        ({"listen": "[fd00::1]:18000"}, "fd00::1", "[fd00::1]:18000"),
    ],
)
def test_sidecars_are_told_where_to_dial(
    changes: dict[str, str], address: str, dialled: str
) -> None:
    body = registration(settings(**changes), 18000)
    assert (body["ID"], body["Name"]) == ("xds-0", "triton-sidecar-xds")
    assert (body["Address"], body["Port"]) == (address, 18000)
    assert body["Checks"][0]["GRPC"] == dialled


@pytest.mark.parametrize("listen", ["0.0.0.0:18000", "[::]:18000"])
def test_an_address_that_nobody_can_dial_is_refused(listen: str) -> None:
    with pytest.raises(ConfigError, match=r"xds\.advertise: expected the address"):
        registration(settings(listen=listen), 18000)
