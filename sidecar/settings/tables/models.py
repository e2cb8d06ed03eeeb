"""`[models]`: where snapshots of models are."""

from typing import Annotated

from pydantic import AfterValidator

from sidecar.settings.values import Table


def _store(place: str) -> str:
    if not place.strip() or "\0" in place or ("://" in place and not place.startswith("s3://")):
        raise ValueError('expected a folder, or an address such as "s3://bucket/prefix"')
    return place


class ModelsSettings(Table):
    """The store that `triton-sidecar model` uses by default."""

    store: Annotated[str, AfterValidator(_store)] | None = None
