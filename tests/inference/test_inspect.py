"""dcls-inspect: the numbers behind the pictures, and that they are drawn."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from audioset_dcls.inference.inspect import (
    inspect,
    low_share,
    mean_spectrum,
    plot_positions_over_training,
    receptive_field,
    smallest_share,
)
from audioset_dcls.models import create_model, save_checkpoint

RECORDINGS = Path(__file__).parents[1] / "data" / "recordings"


@pytest.mark.parametrize("dcls", [pytest.param(True, marks=pytest.mark.slow), False])
def test_inspect(dcls: bool, tmp_path: Path) -> None:
    model = create_model("convnext_atto", dcls=dcls, depths=[1, 1, 1, 1], dims=[8, 16, 24, 32], num_classes=3)
    save_checkpoint(tmp_path / "small.ckpt", model)
    earlier = [str(tmp_path / "small.ckpt")] if dcls else []
    paths = inspect(str(tmp_path / "small.ckpt"), tmp_path / "pictures", [RECORDINGS / "dog_bark.ogg"], earlier)
    names = ["kernels", "spectra", *(["positions"] if dcls else []), "receptive_field"]
    assert [path.stem for path in paths] == [*names, *(["positions_over_training"] if dcls else [])]
    for path in paths:
        assert np.asarray(Image.open(path).convert("L")).std() > 1  # something is on it
    assert len(list((tmp_path / "pictures").iterdir())) == len(paths)


def test_positions_over_training() -> None:
    """A column for each checkpoint; the elements that moved are elsewhere in it."""
    shape = {"depths": [1, 1, 1, 1], "dims": [8, 16, 24, 32], "num_classes": 3}
    models = {}
    for title, spread in (("start", 0.1), ("end", 8.0)):
        models[title] = create_model("convnext_atto", position_std=spread, **shape)
    figure = plot_positions_over_training(models)
    images = [axes.images[0].get_array() for axes in figure.axes if axes.get_title()]
    assert len(images) == 8
    held = [(image > 0).sum() for image in images]
    assert all(held[row * 2] < 30 < held[row * 2 + 1] for row in range(4))  # cells with an element
    with pytest.raises(ValueError, match="plain: its DCLS layers are not those of the first"):
        plot_positions_over_training(models | {"plain": create_model("convnext_atto", dcls=False, **shape)})


def test_receptive_field_is_centred() -> None:
    """Nothing outside the reach of the kernels moves the middle; a wider kernel reaches further."""
    fields = []
    for kernel in (7, 23):
        torch.manual_seed(0)
        shape = {"depths": [1, 1, 1, 1], "dims": [8, 8, 8, 8], "ls_init_value": 1.0}
        model = create_model("convnext_atto", dilated_kernel_size=kernel, **shape)
        for layer in model.modules():
            if hasattr(layer, "positions"):
                torch.nn.init.uniform_(layer.positions, -(kernel // 2), kernel // 2)
        fields.append(receptive_field(model.eval(), torch.randn(2, 1, 128, 1001)))
    assert all(field.shape == (128, 1001) and field.max() == 1 for field in fields)
    assert np.argmax(fields[0].sum(0)) == pytest.approx(500, abs=128)
    assert smallest_share(fields[1]) > smallest_share(fields[0])


def test_smallest_share() -> None:
    field = np.zeros((4, 5))
    field[0, :4] = [4, 3, 2, 1]
    assert smallest_share(field, 0.4) == 1 / 20
    assert smallest_share(field, 0.5) == 2 / 20
    assert smallest_share(field, 0.99) == 4 / 20


def test_spectra() -> None:
    kernels = torch.zeros(2, 23, 23)
    kernels[:, 5, 7] = torch.tensor([1.0, -3.0])  # one cell wherever it is: white
    np.testing.assert_allclose(mean_spectrum(kernels), 1, atol=1e-12)
    assert low_share(mean_spectrum(kernels)) == 0.25
    flat, alternating = torch.ones(1, 23, 23), torch.ones(1, 23, 23)
    alternating[:, 1::2] *= -1
    spectra = [mean_spectrum(k) for k in (flat, alternating)]
    # Parseval: the mean power of unit energy is 1, the largest that of all cells in phase
    assert [s.mean() for s in spectra] == pytest.approx([1, 1])
    assert spectra[0][32, 32] == pytest.approx(529)
    assert spectra[1][0, 32] == pytest.approx(529)
    assert low_share(spectra[0]) > 0.9 > 0.1 > low_share(spectra[1])
