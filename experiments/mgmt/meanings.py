"""What the results of the MGMT experiments are, in words, for their tables and the page."""

from collections.abc import Iterable

from experiments.base.results import Result

MEANINGS = {
    "auc": "how often a methylated patient gets a higher probability than another; 0.5 is guessing; higher is better",
    "accuracy": "share of the patients on the right side of the threshold; higher is better",
    "threshold": "the probability above which a patient is called methylated",
    "loss": "cross entropy; lower is better",
    "_under_chance__auc": "what the best of so many models would have on average if none had learned anything",
    "chance__auc": "what a model that has learned nothing would have on average",
    "permutation_p": "how often the same probabilities come as far when the patients' labels are shuffled",
    "validation_accuracy": "of the validation part at 0.5, mean over all epochs, as the report gives it",
    "saliency_brain": "share of what speaks for methylation that lies on the brain; _expected: of an even one",
    "saliency_bright": "the same on the brightest twentieth of the brain, in FLAIR mostly the tumour; in phantoms a "
    "methylated one is bright in T1w instead",
    "saliency_untrained": "rank correlation with an untrained network's: near 1, nothing was learned",
    "brier": "mean squared error of the probabilities; lower is better; _of_the_share: of always giving the share",
    "calibration_slope": "1 where probabilities mean what they say; below 1 they are too sure",
    "baseline__auc": "of simple features alone, without a network",
    "mgmt_classes": "share of the labelled patients that are methylated",
    "mgmt_black_images": "share of all images that show a single grey value, and where in their series these lie",
    "mgmt_black_fraction": "the same share within each patient, mean over patients",
    "shuffled_labels__auc": "of models that learned other patients' labels: a control, which should be 0.5",
}
"""Ends of results' names -> what these are, and which way is better."""


def meanings(found: Iterable[Result]) -> list[str]:
    """What the rows of a table are, by the ends of their names."""
    names = [result.key.partition(".")[2] for result in found]
    return [f"{end}: {said}" for end, said in MEANINGS.items() if any(name.endswith(end) for name in names)]
