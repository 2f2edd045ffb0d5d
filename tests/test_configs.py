"""Every config composes and builds what it names; the six of the paper have the paper's settings."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from hydra import compose, initialize_config_dir
from hydra.core.hydra_config import HydraConfig
from omegaconf import OmegaConf

from audioset_dcls.dcls import Dcls2d, dcls_layers
from audioset_dcls.folders import data_folder
from audioset_dcls.models import AudioTagger, save_checkpoint
from audioset_dcls.training.optimizer import create_optimizer
from audioset_dcls.training.run import accumulation, build, create_callbacks

CONFIGS = data_folder("configs")
STUDY = Path(__file__).parents[1] / "studies" / "open_sounds" / "configs"
PAPER = [f"{trunk}{kind}" for trunk in ("convnext_tiny", "convformer_s18", "fastvit_sa24") for kind in ("", "_dcls")]


def names(group: str, configs: Path = CONFIGS) -> list[str]:
    folder = configs / group
    return sorted(path.relative_to(folder).with_suffix("").as_posix() for path in folder.rglob("*.yaml"))


def composed(*overrides: str) -> Any:
    with initialize_config_dir(str(CONFIGS), version_base="1.3"):
        config = compose("train", [f"hydra.searchpath=[file://{STUDY}]", *overrides], return_hydra_config=True)
    HydraConfig.instance().set_config(config)
    return config


def resolved(config: Any) -> Any:
    ours = OmegaConf.masked_copy(config, [key for key in config if key != "hydra"])
    return OmegaConf.to_container(ours, resolve=True)


@pytest.fixture(scope="session")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("trained") / "small.ckpt"
    save_checkpoint(
        path, build({"_target_": "audioset_dcls.models.create_model", "name": "convnext_atto", "dcls": False})
    )
    return path


@pytest.mark.parametrize(
    "experiment",
    [*names("experiment"), *(pytest.param(name, marks=pytest.mark.slow) for name in names("experiment", STUDY))],
)
def test_experiment_builds(experiment: str, trained: Path, tmp_path: Path) -> None:
    config = composed(
        f"experiment={experiment}",
        f"checkpoint={trained}",
        f"teacher={trained}",
        "trainer.accelerator=cpu",
        "trainer.devices=1",
    )
    assert Path(config.hydra.run.dir) == Path("runs") / experiment / "seed_0"
    assert Path(config.hydra.sweep.dir) / config.hydra.sweep.subdir == Path("runs") / experiment / "seed_0"
    written = f"{config.hydra.run.dir}/best.ckpt"
    assert composed(f"checkpoint={written}").checkpoint == written  # Hydra takes back the paths that it gives
    settings = resolved(config)
    loads = "checkpoint" in settings["model"]
    if "pretrained" in settings["model"]:
        settings["model"]["pretrained"] = False  # else it is downloaded
    with torch.device("cpu" if loads else "meta"):  # weights without numbers: nothing is computed
        model = build(settings["model"], num_classes=527)
    create_optimizer(model, **settings["optimizer"])
    build(settings["augment"])
    build(settings["data"])
    build(settings["trainer"], logger=False, callbacks=create_callbacks(settings, tmp_path))
    accumulation(settings["batch_size"], settings["data"]["batch_size"], 1)
    if experiment in PAPER:
        assert_paper_settings(settings, model, experiment)


@pytest.mark.parametrize("group", ["model", "data", "trainer", "augment"])
def test_groups_compose(group: str) -> None:
    """Those that no experiment names."""
    experiments = "".join(path.read_text() for path in (CONFIGS / "experiment").rglob("*.yaml"))
    for name in (name for name in names(group) if f"/{group}: {name}\n" not in experiments):
        assert resolved(composed(f"{group}={name}"))[group]["_target_"]


def assert_paper_settings(settings: Any, model: AudioTagger, experiment: str) -> None:
    """The reference's training settings, one by one: DCLS-Audio's, with which the published models were made."""
    conv_former, dcls = experiment.startswith("convformer"), experiment.endswith("_dcls")
    assert settings["optimizer"] == {
        "name": "lamb" if conv_former else "adamw",
        "lr": 4e-3,
        "weight_decay": 0.05,
        "position_lr_factor": 5.0,
        "betas": [0.9, 0.999],
    }
    assert (settings["batch_size"], settings["epochs"], settings["warmup_epochs"]) == (4096, 60, 20)
    assert settings["scheduler"]["min_lr"] == 1e-6
    assert not settings["callbacks"]
    assert not settings["data"]["balanced"]
    assert settings["data"]["clip_seconds"] == 10
    assert not settings["trainer"]["gradient_clip_val"]
    assert settings["augment"] == {
        "_target_": "preprocessing.augment.Augment",
        "roll": True,
        "speed_probability": 0.5,
        "speed_rates": [0.5, 1.5],
        "erase_probability": 0.25,
        "time_mask": 0,
        "frequency_mask": 0,
        "shift_bands": 0,
        "gain": 0.0,
        "mixup_alpha": 0.8,
        "label_smoothing": 0.1,
    }
    assert model.config["drop_path_rate"] == 0.4
    layers = list(dcls_layers(model))
    assert bool(layers) == dcls
    for layer in layers:
        assert isinstance(layer, Dcls2d)
        assert (layer.kernel_count, layer.dilated_kernel_size, layer.interpolation) == (26, (23, 23), "gauss")


def test_every_paper_case_has_a_file() -> None:
    assert set(PAPER) <= set(names("experiment"))


def test_the_studys_commands_name_each_of_its_cases() -> None:
    cases = []
    for name in ("study", "study_changes"):
        parameters: Any = OmegaConf.load(STUDY / "hydra" / "sweeper" / f"{name}.yaml").params
        cases += [case.strip() for case in parameters.experiment.split(",")]
    assert sorted(cases) == [name for name in names("experiment", STUDY) if "recipe" not in name]


def test_slurm_launcher() -> None:
    """One task a GPU, and nothing that submitit's SLURM executor does not know."""
    submitit = pytest.importorskip("submitit")
    launcher = composed("hydra/launcher=slurm", "trainer=slurm").hydra.launcher
    settings = OmegaConf.to_container(launcher, resolve=True)
    assert (settings["nodes"], settings["tasks_per_node"], settings["gpus_per_node"]) == (4, 8, 8)
    assert settings["_target_"].endswith("SlurmLauncher")
    known = {*submitit.SlurmExecutor._valid_parameters(), *submitit.AutoExecutor._typed_parameters()}
    own = {"_target_", "submitit_folder", "max_num_timeout"}
    unknown = {name for name in settings if name not in known and f"slurm_{name}" not in known} - own
    assert not unknown
