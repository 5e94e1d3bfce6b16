"""SegResNet (PyTorch, MONAI) against the 3D and the 2.5D U-Net (Keras): one split, the same test cases, the same grid.

    python -m experiments.compare_frameworks                    embedded phantoms, demo preset, two CPU cores
    python -m experiments.compare_frameworks --recipe equal     the same, all three networks trained by one recipe
    python -m experiments.compare_frameworks --data FOLDER      BraTS, MSD or nnU-Net folder; one GPU
    python -m experiments.compare_frameworks --python segresnet=A/bin/python --python unet3d=B/bin/python
    python -m experiments.compare_frameworks --data FOLDER --predictions nnunet=FOLDER    another method beside them

Puts to the test what the report says of its networks: the SegResNet "slightly better" than the 3D U-Net, and on which
metrics; the 2.5D U-Net cheaper than the 3D one. All are trained on the same 60 / 20 / 20 % of the patients, no subject
is left out for its little tumour, and the same test cases are scored on the scans' grid; differences are paired by case
(Wilcoxon's test with Holm's correction, bootstrap interval). A SegResNet that table2_final has trained is taken over.
Then the same U-Nets, with equal weights, run on TensorFlow, torch and JAX. Every model and backend has a process of its
own, and with --python an environment of its own; one that fails is shown as failed and tried again the next time.

At the report's recipes crops, targets, losses and lengths differ as well as networks. With --recipe equal only network
and framework do: the U-Nets follow the SegResNet of ``experiments.beyond`` (with one output), down to the same
samples, bit for bit; --model.segresnet.* then changes all three.

Cost: demo 5 minutes on two cores of an AMD EPYC after table2_final, whose training it else repeats, and 1 GiB of
memory; paper needs a GPU and has not been timed. Expect on eight held-out phantoms WT Dice near 0.83 (SegResNet), 0.76
(3D) and 0.70 (2.5D), none told apart from another by so few cases, and probabilities that differ by a few 1e-6 between
backends, TensorFlow's steps being the fastest on a CPU.
"""

import sys
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated, Literal

import tyro

from common.recipe import Recipe
from experiments import beyond, table2_final, unet3d, unet25d
from experiments.base.engines import run
from experiments.base.options import Refused, command_line, refusals
from experiments.base.progress import step
from experiments.base.trainings import state
from experiments.comparison import BACKENDS, EQUAL, EXPERIMENT, MODELS
from experiments.comparison.equal import unet_of
from experiments.evaluation.inputs import ScoreOptions, require_methods
from experiments.segmentation.opening import study
from experiments.segmentation.options import Options
from experiments.segmentation.study import Study
from segresnet_monai.config import Config as SegResNet
from unet_tf.config import Config as UNet


@dataclass(frozen=True, kw_only=True)
class FrameworkOptions(Options):
    """What every segmentation experiment is told on its command line, the recipe, and each framework's interpreter."""

    recipe: Literal["report", "equal"] = "report"
    """Each network at the report's recipe for it, or all at the SegResNet's of experiments.beyond."""
    python: Annotated[tuple[str, ...], tyro.conf.UseAppendAction] = ()
    """Interpreter of one model or backend, NAME=PATH: segresnet, unet3d, unet25d, or tensorflow, torch, jax; by default
    the one that runs this command."""
    predictions: Annotated[tuple[str, ...], tyro.conf.UseAppendAction] = ()
    """Another method's label maps of the test cases, NAME=FOLDER, put beside the networks (see experiments.score)."""
    convention_of: Annotated[tuple[str, ...], tyro.conf.UseAppendAction] = ()
    """What their values mean, NAME=brats2018, brats2023, brats2024 or msd, where no dataset.json and no name tells."""

    def interpreters(self) -> dict[str, Path]:
        """Model or backend -> Python interpreter. Raises Refused for what is not NAME=PATH."""
        found = dict.fromkeys((*MODELS, *BACKENDS), Path(sys.executable))
        for given in self.python:
            name, _, path = given.partition("=")
            if name not in found or not path:
                raise Refused(f"expected --python NAME=PATH with a name of {', '.join(found)}, received {given!r}")
            found[name] = Path(path)
        return found


# The report's networks; the SegResNet is its final model. The 3D U-Net's rule that leaves out subjects with little
# tumour is lifted, so that all models have the same cases.
PAPER_UNET3D = replace(unet3d.PAPER, minimum_mask_fraction=0.0)


@dataclass(frozen=True, kw_only=True)
class Frameworks:
    """The three networks, each with its own recipe."""

    segresnet: SegResNet = table2_final.PAPER
    unet3d: UNet = PAPER_UNET3D
    unet25d: UNet = unet25d.PAPER

    def __post_init__(self) -> None:
        for name, dimensions in (("unet3d", 3), ("unet25d", 2)):
            config = getattr(self, name)
            if config.spatial_dims != dimensions:
                raise ValueError(f"expected {name}.spatial_dims to be {dimensions}, received {config.spatial_dims}")
            if config.minimum_mask_fraction != 0:
                raise ValueError(
                    f"expected {name}.minimum_mask_fraction to be 0, so that all models have the same cases, "
                    f"received {config.minimum_mask_fraction}"
                )

    @property
    def configs(self) -> dict[str, SegResNet | UNet]:
        """Model -> its settings."""
        return {name: getattr(self, name) for name in MODELS}

    @property
    def recipe(self) -> Recipe:
        """What the prepared store keeps for the SegResNet."""
        return self.segresnet.recipe

    @property
    def further_recipes(self) -> tuple[Recipe, ...]:
        """What it keeps for the U-Nets."""
        return (self.unet3d.recipe, self.unet25d.recipe)


@dataclass(frozen=True, kw_only=True)
class Equal:
    """The three networks, all with one recipe."""

    segresnet: SegResNet
    """The SegResNet's settings, which the U-Nets follow."""

    def __post_init__(self) -> None:
        _ = self.configs  # raises ValueError for what a U-Net cannot follow

    @property
    def configs(self) -> dict[str, SegResNet | UNet]:
        """Model -> its settings."""
        unets = {name: unet_of(self.segresnet, spatial_dims=n) for name, n in (("unet3d", 3), ("unet25d", 2))}
        return {"segresnet": self.segresnet, **unets}

    @property
    def recipe(self) -> Recipe:
        """What the prepared store keeps, for all three."""
        return self.segresnet.recipe

    @property
    def further_recipes(self) -> tuple[Recipe, ...]:
        return ()


PAPER = Frameworks()

DEMO = Frameworks(
    segresnet=table2_final.DEMO,
    unet3d=replace(unet3d.DEMO, minimum_mask_fraction=0.0),
    unet25d=unet25d.DEMO,
)

EQUAL_PAPER = Equal(segresnet=replace(beyond.GPU.network, supervised_levels=1))
EQUAL_DEMO = Equal(
    segresnet=replace(
        beyond.DEMO.network, supervised_levels=1, initial_filters=8, crops_per_epoch=40, epochs=15, validate_every=15
    )
)

PRESETS = {
    EXPERIMENT: {"paper": PAPER, "demo": DEMO},
    EQUAL: {"paper": EQUAL_PAPER, "demo": EQUAL_DEMO},
}


@dataclass(frozen=True)
class Choice:
    """What decides of which settings --model.* are."""

    recipe: Literal["report", "equal"] = "report"


def beside(study: Study, options: FrameworkOptions) -> ScoreOptions | None:
    """How other methods' label maps are scored beside the networks; None without any."""
    if not options.predictions:
        return None
    return ScoreOptions(
        data=study.cohort.folder,
        layout=options.layout,
        cavity=options.cavity,
        predictions=options.predictions,
        convention=options.convention_of + ((options.convention,) if options.convention else ()),
        leave_out_bad=options.leave_out_bad,
        empty_masks=options.empty_masks,
        runs=options.runs,
        cores=options.jobs,
        fresh=options.fresh,
    )


def main() -> None:
    choice, _ = tyro.cli(Choice, return_unknown_args=True, add_help=False)
    experiment = EQUAL if choice.recipe == "equal" else EXPERIMENT
    options, frameworks = command_line(
        EXPERIMENT, PRESETS[experiment], description=__doc__, options_type=FrameworkOptions
    )
    with refusals():
        interpreters = options.interpreters()
    with study(experiment, options, frameworks, further_recipes=frameworks.further_recipes, several=True) as opened:
        from experiments.comparison import backends, models, summary, table

        others = beside(opened, options)
        if others is not None:
            tested = [subject for subject in opened.cohort.subjects if subject.id in opened.split.test]
            require_methods(others, tested, taken=MODELS)
        configs = frameworks.configs
        wanted = models.trainings(opened, configs, interpreters) + backends.trainings(opened, configs, interpreters)
        with step(3):
            run(wanted, options)
        with step(4):
            summary.summarise(opened, configs, backends.read(opened))
        table.show(opened)
        if others is not None:
            from experiments.evaluation.evaluate import evaluate  # and with it the plotting library

            print()
            folders = {model: models.folder_of(opened, model) for model in MODELS}
            finished = tuple(f"{model}={folder}" for model, folder in folders.items() if state(folder) == "finished")
            if finished:
                evaluate(replace(others, runs_of=finished))
            else:
                print("no network is finished: the label maps of --predictions are not scored beside them")


if __name__ == "__main__":
    main()
