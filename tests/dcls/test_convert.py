"""State dicts of `dcls` 0.1.1 in our layers: the same kernels, within float32's rounding."""

from __future__ import annotations

import pytest
import torch
from DCLS.construct.modules import Dcls1d as ReferenceDcls1d
from DCLS.construct.modules import Dcls2d as ReferenceDcls2d
from DCLS.construct.modules import Dcls3d as ReferenceDcls3d
from torch import nn

from audioset_dcls.dcls import Dcls1d, Dcls2d, Dcls3d, convert_dcls
from audioset_dcls.dcls.convert import _ROWS, _ROWS_OF_V0
from audioset_dcls.dcls.kernel import INTERPOLATION_OF_VERSION

PAIRS = {1: (ReferenceDcls1d, Dcls1d), 2: (ReferenceDcls2d, Dcls2d), 3: (ReferenceDcls3d, Dcls3d)}


SIZES = [(9,), (7, 7), (5, 9), (5, 5, 5), (7, 5, 3)]
# v0 of dcls compares the cells of one axis with positions along another where three axes differ
CASES = [
    (version, sizes) for version in INTERPOLATION_OF_VERSION for sizes in SIZES if (version, sizes) != ("v0", SIZES[-1])
]


@pytest.mark.parametrize(("version", "sizes"), CASES)
def test_kernels_are_those_of_the_reference(version: str, sizes: tuple[int, ...]) -> None:
    torch.manual_seed(0)
    theirs_class, ours_class = PAIRS[len(sizes)]
    theirs = theirs_class(4, 6, 5, dilated_kernel_size=sizes, version=version, groups=2)
    rows = (_ROWS_OF_V0 if version == "v0" else _ROWS)[len(sizes)]
    with torch.no_grad():  # inside the kernel: at its border "v1" scales elements up, which ours do not
        for row, along in zip(rows, sizes, strict=True):
            theirs.P[row] = torch.rand_like(theirs.P[row]) * (along - 1) - sizes[row] // 2
    if theirs.SIG is not None:
        nn.init.uniform_(theirs.SIG, -1, 1)
    ours = ours_class(4, 6, 5, dilated_kernel_size=sizes, groups=2, interpolation=INTERPOLATION_OF_VERSION[version])
    ours.load_state_dict(convert_dcls(theirs.state_dict(), version, sizes))
    expected = theirs.DCK(theirs.weight, theirs.P, theirs.SIG)
    torch.testing.assert_close(ours.dense_kernel(), expected, rtol=0, atol=1e-6)


def test_layers_inside_a_model_and_nothing_else() -> None:
    """A batch norm's weight, and a tensor that happens to be called P, stay the very same."""
    model = nn.Sequential(ReferenceDcls2d(3, 3, 4, dilated_kernel_size=5, groups=3), nn.BatchNorm2d(3))
    given = {**model.state_dict(), "other.P": torch.zeros(2)}
    converted = convert_dcls(given)
    assert set(converted) == {
        *(f"0.{name}" for name in ("weight", "bias", "positions", "deviations")),
        *(f"1.{name}" for name in ("weight", "bias", "running_mean", "running_var", "num_batches_tracked")),
        "other.P",
    }
    assert all(converted[key] is given[key] for key in converted if key in given)


def test_what_is_no_such_state_dict_is_named() -> None:
    with pytest.raises(ValueError, match="version 'v2' is none of v0, v1, max, gauss"):
        convert_dcls({}, "v2")
    with pytest.raises(ValueError, match=r"a\.P: shape \(4, 1, 1, 1\) is not that of a layer with one to three axes"):
        convert_dcls({"a.weight": torch.zeros(1, 1, 1), "a.P": torch.zeros(4, 1, 1, 1)})
