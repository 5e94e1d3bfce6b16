"""An interactive viewer of one case's slices: nilearn's, as a page for a sandboxed frame that loads nothing.

To nilearn's page are added: truth and prediction to switch between without losing the place, and sliders for the
keyboard. Its link to an icon on the network is taken out.
"""

import re
from dataclasses import dataclass

import nibabel as nib
import numpy as np

from common import nifti
from common.labels import CLASSES
from common.picture import CLASS_COLOURS, window
from common.subject import Subject
from experiments.page.template import render

BACKGROUND = "FLAIR"
OPACITY = 0.6
ICON = re.compile(r'<link rel="icon"[^>]*>')
OVERLAY = re.compile(r'<img id="overlayImg[^"]*"[^>]*src="(data:image/png;base64,[^"]*)"')
VIEWER_MADE = "brain = brainsprite("


@dataclass(frozen=True)
class Boxed:
    """Arrays (x, y, z) of one case, x to the right, y to the front, z up, cut to the head. spacing_mm: of x, y, z."""

    grey: np.ndarray
    truth: np.ndarray
    predicted: np.ndarray
    spacing_mm: tuple[float, ...]


def draw(subject: Subject, truth: np.ndarray, predicted: np.ndarray) -> str:
    """HTML of the viewer: FLAIR, and over it the labels of truth or prediction; opens where most of the tumour is.

    truth, predicted: classes 0..3 (x, y, z) on the subject's grid, shown voxel by voxel. Raises ScanError as
    `Subject.load_images` does; ValueError where nilearn's page is not what is expected here.
    """
    (grey,), scan = subject.load_images((BACKGROUND,))
    case = boxed(grey, truth, predicted, scan.affine)
    page, overlays = "", {}
    for name, labels in (("prediction", case.predicted), ("truth", case.truth)):
        page = _nilearn(case, labels)
        overlays[name] = _one(OVERLAY, page)
    x, y, z = start(case)
    # Radiological: the patient's left is on the right, so nilearn's slices run from right to left.
    sizes = dict(zip("XYZ", case.grey.shape, strict=True))
    controls = render(
        "viewer.html",
        overlays=overlays,
        opacity=OPACITY,
        colours=CLASS_COLOURS,
        sliders=[
            ("X", "right to left", sizes["X"], sizes["X"] - 1 - x),
            ("Y", "back to front", sizes["Y"], y),
            ("Z", "bottom to top", sizes["Z"], z),
        ],
    )
    if page.count(VIEWER_MADE) != 1 or page.count("</body>") != 1:
        raise ValueError(f"expected one {VIEWER_MADE!r} in nilearn's viewer, found {page.count(VIEWER_MADE)}")
    page = page.replace(VIEWER_MADE, f"window.{VIEWER_MADE}").replace("</body>", f"{controls}</body>")
    return ICON.sub("", page)


def boxed(grey: np.ndarray, truth: np.ndarray, predicted: np.ndarray, affine: np.ndarray) -> Boxed:
    """The case turned to the nearest axes of the body, without resampling, and cut to all that is not background."""
    turned = [nifti.to_axes(volume, affine, "RAS") for volume in (grey, truth, predicted)]
    inside = np.nonzero(np.any([volume != 0 for volume in turned], axis=0))
    box = tuple(slice(int(at.min()), int(at.max()) + 1) for at in inside)
    order = nib.io_orientation(affine)[:, 0].argsort()
    return Boxed(*(volume[box] for volume in turned), tuple(nib.affines.voxel_sizes(affine)[order].tolist()))


def start(case: Boxed) -> tuple[int, int, int]:
    """Index of the axial slice with the largest tumour area of the truth, and of its voxel nearest to the centre in it.

    The centre itself may lie between two tumours.
    """
    tumour = (case.truth if case.truth.any() else case.predicted) > 0
    z = int(np.count_nonzero(tumour, axis=(0, 1)).argmax())
    inside = np.nonzero(tumour[:, :, z])
    if not inside[0].size:
        return tumour.shape[0] // 2, tumour.shape[1] // 2, z
    offsets = np.stack([at - at.mean() for at in inside])
    nearest = (offsets**2).sum(axis=0).argmin()
    return int(inside[0][nearest]), int(inside[1][nearest]), z


def _nilearn(case: Boxed, labels: np.ndarray) -> str:
    # Slow to import, and not needed for a page without a viewer.
    from matplotlib.colors import ListedColormap
    from nilearn.plotting import view_img

    affine = np.diag([*case.spacing_mm, 1.0])
    view = view_img(
        nib.Nifti1Image(labels.astype(np.uint8), affine),
        bg_img=nib.Nifti1Image(window(case.grey).astype(np.float32), affine),
        cut_coords=(0, 0, 0),
        # Background is a colour without any opacity, so that a case without labels needs no threshold.
        cmap=ListedColormap(["#00000000", *CLASS_COLOURS.values()]),
        vmin=0,
        vmax=len(CLASSES) - 1,
        threshold=None,
        symmetric_cmap=False,
        resampling_interpolation="nearest",
        colorbar=False,
        annotate=False,
        black_bg=True,
        dim=0,
        radiological=True,
    )
    return view.get_standalone()


def _one(pattern: re.Pattern[str], page: str) -> str:
    found = pattern.findall(page)
    if len(found) != 1:
        raise ValueError(f"expected one {pattern.pattern!r} in nilearn's viewer, found {len(found)}")
    return found[0]
