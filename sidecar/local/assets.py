"""The data files shipped with the program: in the checkout, or inside the wheel."""

from pathlib import Path

from sidecar.runtime.errors import PartMissing

_PACKAGE = Path(__file__).resolve().parent.parent


def folder(name: str) -> Path:
    """The folder `consul`, `envoy` or `triton_models`.

    Raises:
        PartMissing: neither the checkout nor the installed package has it.
    """
    # The checkout first: an editable installation has no copy, and the next mesh should serve a
    # model that was edited there.
    places = (_PACKAGE.parent / name, _PACKAGE / "_assets" / name)
    checkout = (_PACKAGE.parent / "pyproject.toml").is_file()
    for place in places if checkout else places[1:]:
        if place.is_dir():
            return place
    listed = " or ".join(map(str, places))
    raise PartMissing(f"{name}: expected the folder {listed}; reinstall triton-sidecar")
