import pytest
from hypothesis import given
from hypothesis import strategies as st

from sidecar.gpu.api import META_LIMIT, GpuReading, Selection, joined_uuids, select

UUID = "GPU-8932f937-d72c-4106-c12f-20bd9faed9f6"
MIG = "MIG-1f2e3d4c-5b6a-5079-8899-aabbccddeeff"


@pytest.mark.parametrize(
    ("devices", "environment", "names", "strict"),
    [
        ((), {}, None, False),
        (("1",), {"CUDA_VISIBLE_DEVICES": "0"}, ("1",), True),
        ((), {"CUDA_VISIBLE_DEVICES": "2,0"}, ("2", "0"), False),
        ((), {"CUDA_VISIBLE_DEVICES": f"{UUID}, {MIG}"}, (UUID, MIG), False),
        ((), {"CUDA_VISIBLE_DEVICES": "0,2,-1,1"}, ("0", "2"), False),
        ((), {"CUDA_VISIBLE_DEVICES": ""}, (), False),
        ((), {"CUDA_VISIBLE_DEVICES": "1", "NVIDIA_VISIBLE_DEVICES": UUID}, ("1",), False),
        ((), {"NVIDIA_VISIBLE_DEVICES": f"{UUID},{MIG}"}, (UUID, MIG), False),
        ((), {"NVIDIA_VISIBLE_DEVICES": "2,3"}, None, False),
        ((), {"NVIDIA_VISIBLE_DEVICES": "all"}, None, False),
        ((), {"NVIDIA_VISIBLE_DEVICES": "void"}, None, False),
        ((), {"NVIDIA_VISIBLE_DEVICES": ""}, None, False),
        ((), {"NVIDIA_VISIBLE_DEVICES": "none"}, (), False),
    ],
)
def test_which_gpus_are_selected(
    devices: tuple[str, ...],
    environment: dict[str, str],
    names: tuple[str, ...] | None,
    strict: bool,
) -> None:
    assert select(devices, environment) == Selection(names, strict)


@pytest.mark.parametrize(
    ("names", "included"),
    [
        (None, True),
        ((), False),
        (("0",), False),
        (("1",), True),
        (("11",), False),
        ((UUID,), True),
        (("GPU-8932f937",), True),
        (("GPU-8932f938",), False),
        ((MIG,), False),
    ],
)
def test_a_gpu_is_selected_by_index_or_uuid_prefix(
    names: tuple[str, ...] | None, included: bool
) -> None:
    assert Selection(names).includes(1, UUID) is included


def test_an_unknown_uuid_is_not_matched() -> None:
    assert not Selection((UUID,)).includes(1, "")


@given(st.integers(0, 40))
def test_uuids_fit_into_a_services_meta_and_every_one_is_counted(count: int) -> None:
    uuids = [f"GPU-{number:08d}-d72c-4106-c12f-20bd9faed9f6" for number in range(count)]
    joined = joined_uuids(GpuReading(uuid) for uuid in uuids)
    assert len(joined) <= META_LIMIT
    *kept, last = joined.split(",")
    rest = int(last) if last.startswith("+") else 0
    kept = [name for name in ([*kept, last] if not rest else kept) if name]
    assert kept == uuids[: len(kept)]
    assert len(kept) + rest == count
    assert (rest == 0) == (len(",".join(uuids)) <= META_LIMIT)


def test_a_gpu_without_a_uuid_is_not_in_the_meta() -> None:
    assert joined_uuids([GpuReading("", lost="lost"), GpuReading(UUID)]) == UUID
