"""Fine-tuning: another run's weights, from which a training starts in place of random ones.

Not to be confused with ``train.continue_from``, which goes on with a training's optimiser, schedule and history.
"""

import hashlib
import re
import shutil
import zipfile
from dataclasses import dataclass
from pathlib import Path

from common.files import atomic_path, check_archive, read_json
from common.networks import read_model_config
from common.runs import RunError
from common.words import listed
from segresnet_monai.config import NETWORKS, Config

NETWORK = ("network", "contrasts", "initial_filters", "encoder_blocks", "decoder_blocks", "vae")
"""Fields that two configurations share where one can start from the other's weights; an autoencoder's branch is made
for one size of crops, too."""
HEAD = re.compile(r"^conv_final\.2\.|(^|\.)(head|super_head|output_block|deep_supervision_heads)\.")
"""Names of the parameters that make logits, of all three networks (DynUNet's have several)."""
KEPT = "checkpoints/start.pt"
"""In a run's folder: the weights that it started from, where they predict beside its own."""


@dataclass(frozen=True, kw_only=True)
class Start:
    """Where a training starts."""

    run: Path
    """Folder of the run whose weights are taken."""
    digest: str
    """Of the weights' content, wherever they lie."""
    new_outputs: bool
    """Whether the last layers are made anew, as their channels stand for something else."""

    def weights(self) -> Path:
        """The file. Raises RunError when it is not the one that was found first."""
        path, digest = _weights(self.run, read_model_config(self.run, Config))
        if digest != self.digest:
            raise RunError(f"{path}: expected the weights {self.digest} to start from, found {digest}")
        return path

    def keep(self, folder: Path) -> Path:
        """A copy of the weights in a run's folder, which from then on predicts by both; returns its path.

        Raises RunError as :meth:`weights`.
        """
        with atomic_path(folder / KEPT) as temporary:
            shutil.copyfile(self.weights(), temporary)
        return folder / KEPT


def find_start(run: Path, config: Config) -> Start:
    """The weights of a finished run, for a training with another configuration.

    Raises RunError when the folder is not a finished SegResNet's, its weights are damaged, or its network is another.
    """
    if (run / NETWORKS).exists():
        several = listed([str(run / name) for name in read_json(run / NETWORKS, list)])
        raise RunError(
            f"{run}: expected the run of one network to start from, found a study of folds: name one, {several}"
        )
    source = read_model_config(run, Config)
    fields = (*NETWORK, "crop_voxels") if config.vae else NETWORK
    pairs = {name: (getattr(source, name), getattr(config, name)) for name in fields}
    if different := [f"{name} {ours} (there {theirs})" for name, (theirs, ours) in pairs.items() if theirs != ours]:
        raise RunError(
            f"{run}: expected a run with this network to start from, found other settings of it: {'; '.join(different)}"
        )
    if not (run / "summary.json").exists():
        raise RunError(f"{run}: expected a finished run to start from, found no summary.json in it")
    _, digest = _weights(run, source)
    return Start(run=run.resolve(), digest=digest, new_outputs=outputs(source) != outputs(config))


def refuse_other_answers(run: Path, config: Config) -> None:
    """Raises RunError where probabilities of a run's network cannot be averaged with those of this configuration's."""
    source = read_model_config(run, Config)
    pairs = {"channels": (outputs(source), outputs(config)), "recipe": (source.recipe, config.recipe)}
    if different := [f"{name} {ours} (there {theirs})" for name, (theirs, ours) in pairs.items() if theirs != ours]:
        raise RunError(
            f"{run}: expected a network whose probabilities can be averaged with this one's, found: "
            f"{'; '.join(different)}"
        )


def outputs(config: Config) -> str:
    """What the network's channels stand for."""
    return "classes and background" if config.softmax else config.targets


def _weights(run: Path, config: Config) -> tuple[Path, str]:
    """Path and content digest of a run's weights: without the archive's name, which is another one in each copy."""
    path = run / "checkpoints" / f"{config.checkpoint}.pt"
    try:
        check_archive(path)
        digest = hashlib.sha256()
        with zipfile.ZipFile(path) as archive:
            members = {name.partition("/")[2]: name for name in archive.namelist()}
            for member in sorted(name for name in members if name == "data.pkl" or name.startswith("data/")):
                digest.update(member.encode() + archive.read(members[member]))
    except (ValueError, OSError) as error:
        raise RunError(f"{path}: expected intact weights to start from, found: {error}") from error
    return path, digest.hexdigest()[:16]
