"""Small phantoms in the layouts of public collections: every file that a download has, and its table."""

import csv
from collections.abc import Container, Mapping
from pathlib import Path

import nibabel as nib
import numpy as np

from common.labels import LabelConvention
from tests.cohorts import LPS_AFFINE, make_subject

UCSF_OTHERS = (
    *("ADC", "ASL", "DTI_eddy_FA", "DTI_eddy_MD", "DTI_eddy_noreg", "DWI", "DWI_bias", "SWI", "SWI_bias"),
    *("brain_segmentation", "brain_parenchyma_segmentation"),
)
UCSF_COLUMNS = (
    *("ID", "Sex", "Age at MRI", "WHO CNS Grade", "Final pathologic diagnosis (WHO 2021)", "MGMT status", "MGMT index"),
    *("1p/19q", "IDH", "1-dead 0-alive", "OS", "EOR", "Biopsy prior to imaging", "BraTS21 ID"),
    *("BraTS21 Segmentation Cohort", "BraTS21 MGMT Cohort"),
)
UPENN_COLUMNS = (
    *("ID", "Gender", "Age_at_scan_years", "Survival_from_surgery_days_UPDATED", "Survival_Status", "Survival_Censor"),
    *("IDH1", "MGMT", "KPS", "GTR_over90percent", "Time_since_baseline_preop", "PsP_TP_score"),
)


def save(path: Path, data: np.ndarray) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    nib.save(nib.Nifti1Image(data, LPS_AFFINE), path)
    return path


def write_ucsf(folder: Path, numbers: Mapping[str, int], *, shape: tuple[int, int, int] = (20, 24, 18)) -> Path:
    """UCSF-PDGM. numbers: what follows UCSF-PDGM- in an id ("0004", "0431_FU001d") -> the seed of its phantom."""
    rows = []
    for number, seed in numbers.items():
        name = f"UCSF-PDGM-{number}"
        images, labels = make_subject(seed, shape)
        own = folder / "UCSF-PDGM-v5" / f"{name}_nifti"
        for word, image in zip(("FLAIR", "T1", "T1c", "T2"), images.values(), strict=True):
            save(own / f"{name}_{word}.nii.gz", image)
            save(own / f"{name}_{word}_bias.nii.gz", (image * 1.25).astype(np.float32))
        for word in UCSF_OTHERS:
            save(own / f"{name}_{word}.nii.gz", (images["t1"] > 0).astype(np.uint8))
        save(own / f"{name}_tumor_segmentation.nii.gz", labels)
        base, _, further = number.partition("_")
        listed = f"UCSF-PDGM-{number}" if further else f"UCSF-PDGM-{int(base):03d}"
        mgmt = ("negative", "positive", "indeterminate")[seed % 3]
        rows.append((listed, "F", 60, 4, "Glioblastoma, IDH-wildtype", mgmt, "unknown", "unknown", "wildtype"))
    _table(folder / "UCSF-PDGM-metadata_v5.csv", UCSF_COLUMNS, rows)
    return folder


def write_upenn(folder: Path, numbers: Mapping[str, str], *, shape: tuple[int, int, int] = (20, 24, 18)) -> Path:
    """UPENN-GBM. numbers: what follows UPENN-GBM- in a scan's id ("00001_11") -> its masks: manual, automated, both or
    none. The two masks of one scan differ."""
    files, rows = folder / "NIfTI-files", []
    for seed, (number, masks) in enumerate(numbers.items()):
        name = f"UPENN-GBM-{number}"
        images, labels = make_subject(seed, shape)
        for word, image in zip(("FLAIR", "T1", "T1GD", "T2"), images.values(), strict=True):
            save(files / "images_structural" / name / f"{name}_{word}.nii.gz", image)
            save(files / "images_structural_unstripped" / name / f"{name}_{word}_unstripped.nii.gz", image + 1)
        for word in ("AD", "FA"):
            save(files / "images_DTI" / "images_DTI" / name / f"{name}_DTI_{word}.nii.gz", images["t1"])
        save(files / "images_DSC" / name / f"{name}_DSC_PH.nii.gz", images["t2"])
        if masks in ("manual", "both"):
            save(files / "images_segm" / f"{name}_segm.nii.gz", labels)
        if masks in ("automated", "both"):
            save(files / "automated_segm" / f"{name}_automated_approx_segm.nii.gz", np.where(labels == 1, 4, labels))
        mgmt = ("Methylated", "Unmethylated", "Not Available", "Indeterminate")[seed % 4]
        rows.append((name, "F", 63, "Not Available", "Not Available", "Not Available", "Wildtype", mgmt))
    _table(folder / "UPENN-GBM_clinical_info_v2.1.csv", UPENN_COLUMNS, rows)
    return folder


def write_2023(
    folder: Path,
    collection: str,
    numbers: Mapping[str, int],
    *,
    resected: Container[str] = (),
    shape: tuple[int, int, int] = (20, 24, 18),
) -> Path:
    """BraTS 2023 and later. numbers: what follows BraTS-GLI- in an id ("00005-100") -> the seed of its phantom.

    resected: of those whose necrotic core is a resection cavity, 4.
    """
    for number, seed in numbers.items():
        name = f"BraTS-{collection}-{number}"
        images, labels = make_subject(seed, shape)
        for word, image in zip(("t2f", "t1n", "t1c", "t2w"), images.values(), strict=True):
            save(folder / name / f"{name}-{word}.nii.gz", image)
        values = np.array([0, 4 if number in resected else 1, 2, 0, 3], np.uint8)
        save(folder / name / f"{name}-seg.nii.gz", values[labels])
    return folder


def write_bids(
    folder: Path,
    sessions: Mapping[tuple[str, str], int],
    convention: LabelConvention,
    *,
    shape: tuple[int, int, int] = (20, 24, 18),
) -> Path:
    """A BIDS dataset with masks as a derivative. sessions: labels of patient and session -> the seed of a phantom."""
    for (patient, session), seed in sessions.items():
        name = f"{patient}_{session}"
        images, labels = make_subject(seed, shape)
        own = folder / patient / session
        for suffix, image in zip(("FLAIR", "T1w", "ce-gadolinium_T1w", "T2w"), images.values(), strict=True):
            save(own / "anat" / f"{name}_{suffix}.nii.gz", image)
        save(own / "dwi" / f"{name}_dwi.nii.gz", images["t2"])
        masks = folder / "derivatives" / "masks" / patient / session / "anat"
        classes = np.select([labels == value for value in (1, 2, 4)], [1, 2, 3], 0)
        save(masks / f"{name}_dseg.nii.gz", convention.from_classes(classes))
        save(masks / f"{name}_desc-brain_mask.nii.gz", (images["t1"] > 0).astype(np.uint8))
    (folder / "dataset_description.json").write_text('{"Name": "phantoms", "BIDSVersion": "1.9.0"}\n', encoding="utf-8")
    return folder


def _table(path: Path, columns: tuple[str, ...], rows: list[tuple]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(columns)
        writer.writerows(row + ("",) * (len(columns) - len(row)) for row in rows)
