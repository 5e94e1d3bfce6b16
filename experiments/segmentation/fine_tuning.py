"""What a network has seen before a training starts from its weights, and that it must not be tested on."""

from collections.abc import Callable, Iterable, Mapping
from pathlib import Path

from common.files import typed
from common.identity import equal_content
from common.patient import synthetic_mark
from common.subject import Subject
from experiments.base.options import Refused
from experiments.base.trainings import given
from segresnet_monai.start import Start

SEEN_IN = ("train", "validation")
"""Parts of a split that decide a network's weights: it is trained on one, and the other chooses among its epochs."""


def described(start: Start) -> str:
    """A line for the table of a network that was fine-tuned; it says where the other's patients were synthetic."""
    whose = ", a network of synthetic phantoms" if synthetic_mark(start.run) else ""
    anew = ", its last layers made anew, for they stand for something else here" if start.new_outputs else ""
    return f"fine-tuned: starts from the weights {start.digest} of {start.run}{whose}{anew}"


def start_in(settings: Mapping) -> Start | None:
    """Where a training starts, as its config.json says; None where from random weights."""
    if "start" not in settings:
        return None
    return typed(Start, settings["start"] | {"run": Path(settings["start"]["run"])})


def seen_by(run: Path) -> list[dict[str, object]]:
    """Everyone whom the weights of a run have seen, those of the runs included that it started from.

    Per subject: id, patient, fingerprint of the files, and content digests by contrast (none in older runs).
    Raises RunError when the folder's data.json or split.json is damaged.
    """
    data = given(run, "data", subjects=dict)
    split = given(run, "split", **dict.fromkeys(SEEN_IN, list))
    known, contents = data.get("patients", {}), data.get("contents", {})
    own = [
        {
            "id": id,
            "patient": known.get(id, Subject(id, {}).patient),
            "fingerprint": data["subjects"].get(id),
            "contents": contents.get(id, {}),
        }
        for part in SEEN_IN
        for id in split[part]
    ]
    return [*own, *data.get("seen", [])]


class Seen:
    """Those whom weights have seen (:func:`seen_by`), looked up by their scans and by their patients' names.

    An equal id is an equal patient only where ids name patients; ``case_001`` is another one in every hospital.
    """

    def __init__(self, seen: Iterable[Mapping]) -> None:
        seen = list(seen)
        self.prints = {each["fingerprint"]: each["id"] for each in seen}
        self.patients = {each["patient"]: each["id"] for each in seen}
        self.digests = {digest: each["id"] for each in seen for digest in each["contents"].values()}

    def why(self, subject: Subject, contents: Callable[[], Iterable[str]]) -> str:
        """By what a subject is one of them, in words; empty where it is none. contents: digests of its scans."""
        known = self.patients.get(subject.patient)
        if known and {known, subject.id} != {subject.patient}:
            return f"is the patient of {known}, which the network was trained on"
        same = self.prints.get(subject.fingerprint())
        if not same and self.digests:
            same = next((self.digests[one] for one in contents() if one in self.digests), None)
        return f"has the scans of {same}, which the network was trained on" if same else ""

    def names(self, subject: Subject) -> bool:
        """Whether one of them has the subject's name."""
        return subject.patient in self.patients


def refuse_seen(
    run: Path,
    seen: Iterable[Mapping],
    test: Iterable[Subject],
    fingerprints: Mapping[str, str],
    contents: Mapping[str, Mapping[str, str]],
) -> None:
    """Raises Refused, with the names, when a test subject is one that the weights of ``run`` have seen.

    seen: as :func:`seen_by` tells. fingerprints, contents: of the test subjects, by id. It is the same subject by its
    patient's name, its files, or any of its contrasts' content.
    """
    seen, test = list(seen), list(test)
    patients = {each["patient"]: each["id"] for each in seen}
    files = {each["fingerprint"]: each["id"] for each in seen}
    digests = {f"seen {number}": each["contents"] for number, each in enumerate(seen)}
    digests |= {f"test {subject.id}": contents[subject.id] for subject in test}
    alike = {}
    for group in equal_content(digests):
        others = [seen[int(name.removeprefix("seen "))]["id"] for name in group if name.startswith("seen ")]
        alike |= {name.removeprefix("test "): others[0] for name in group if name.startswith("test ") and others}
    found, by_name = [], False
    for subject in test:
        by_scans = files.get(fingerprints[subject.id]) or alike.get(subject.id)
        same = patients.get(subject.patient) or by_scans
        if same is not None:
            found.append(subject.id if same == subject.id else f"{subject.id} (there {same})")
            by_name |= by_scans is None
    if found:
        others = "; where only the names are equal, --patients tells other patients apart" if by_name else ""
        raise Refused(
            f"{run}: expected weights that have seen nobody of the test part, found {len(found)} of its subjects among "
            f"those that they were trained or validated on: {', '.join(found)}; start from other weights, or test on "
            f"others (--subjects, --split-seed){others}"
        )
