"""What a DICOM series shows, in words that a person reads and types: its kind.

Built from what distinguishes contrasts and is the same over patients of one protocol. Echo times, repetition times
and extents join only where a folder holds clearly different ones under the same words: fixed bins would split a
protocol at their edges by the jitter of the scanner.
"""

import re
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from meddiff_core.data.dicom.header import Header
from meddiff_core.data.dicom.stack import normal_of, positions_of

IMAGE_TYPES = (
    (r"P|PHASE|PHASE MAP|P_\w+", "phase"),
    (r"R|REAL|R_\w+", "real"),
    (r"I|IMAGINARY|I_\w+", "imaginary"),
    (r"W|WATER", "water"),
    (r"F|FAT", "fat"),
    (r"IP|IN_PHASE", "in phase"),
    (r"OP|OPP_PHASE|OUT_PHASE", "opposed phase"),
    (r"MPR|REFORMATTED|CURVED|CSA MPR", "reformat"),
    (r"MIP|MINIP|PROJECTION IMAGE|PROJECTED", "projection"),
    (r"SUB|SUBTRACT|SUBTRACTION", "subtraction"),
    (r"ADC|FA|TRACEW|CBF|RCBF|CBV|RCBV|MTT|TTP|SWI|MNIP", ""),
    (r"T1 MAP|T2 MAP|T2_STAR MAP|R2 MAP|R2_STAR MAP|PERFUSION|SUV", ""),
)
"""Values of Image Type that make another contrast, and their words; the value itself where no word is given."""
FIGURES = (
    ("EchoTime", "TE", "ms", 1.5),
    ("RepetitionTime", "TR", "ms", 2.0),
    ("InversionTime", "TI", "ms", 2.0),
    ("Extent", "extent", "mm", 1.5),
)
"""What weighs a contrast and what the least extent of the volume says of the field of view: the figure, its short
name and unit, and the ratio between neighbours from which they are two."""
LADDER = np.array(
    [step * 10.0**power for power in range(-2, 6) for step in (1, 1.2, 1.5, 2, 2.5, 3, 3.5, 4, 5, 6, 7, 8)]
)
NO_AGENT = {"NO", "NONE", "N", "0", "N/A", "NA", "WITHOUT"}


@dataclass(frozen=True)
class Show:
    """What one stack shows, before the figures of the others are known."""

    words: str
    figures: dict[str, float]


def type_words(header: Header) -> tuple[str, ...]:
    """What Image Type and its kin say of a contrast: phase, water, reformat and the like."""
    named = [header.text["Component"]] if "Component" in header.text else []
    for value in header.image_type[2:]:
        named += [word or value.lower() for pattern, word in IMAGE_TYPES if re.fullmatch(pattern, value)]
    return tuple(dict.fromkeys(named))


def show_of(stack: Sequence[Header], volume: str) -> Show:
    """Kind of a stack without its figures; `volume` distinguishes it from others of its series, such as `echo 2`."""
    first = stack[0]
    agent = first.text.get("ContrastBolusAgent", "")
    parts = [
        " ".join([first.text.get("Modality", "unknown modality"), *first.words]),
        first.text.get("ScanningSequence", ""),
        f"kernel {first.text['ConvolutionKernel']}" if "ConvolutionKernel" in first.text else "",
        "contrast agent" if agent and agent.upper() not in NO_AGENT else "",
        *type_words(first),
        "inverted" if first.colours == "MONOCHROME1" else "",
        volume,
    ]
    extent = _least_extent_mm(stack)
    figures = first.figures | ({"Extent": extent} if extent > 0 else {})
    return Show("; ".join(part for part in parts if part), figures)


def _least_extent_mm(stack: Sequence[Header]) -> float:
    """Of the volume along rows, columns and across slices."""
    assert stack[0].spacing_mm is not None
    row_mm, column_mm = stack[0].spacing_mm
    along = positions_of(stack) @ normal_of(stack[0])
    across = float(along[-1] - along[0]) * len(along) / max(len(along) - 1, 1)
    return min(across, stack[0].rows * row_mm, stack[0].columns * column_mm)


def kinds_of(shows: Sequence[Show]) -> list[str]:
    """The kind of each; a figure is named where the same words stand for clearly different ones."""
    kinds = [show.words for show in shows]
    for name, short, unit, ratio in FIGURES:
        together: defaultdict[str, list[int]] = defaultdict(list)
        for number, show in enumerate(shows):
            if name in show.figures:
                together[kinds[number]].append(number)
        for members in together.values():
            values = [shows[number].figures[name] for number in members]
            groups = clusters(values, ratio)
            for group in groups if len(groups) > 1 else []:
                about = _rung([values[position] for position in group])
                for position in group:
                    kinds[members[position]] += f"; {short} {about:g} {unit}"
    return kinds


def clusters(values: Sequence[float], ratio: float) -> list[list[int]]:
    """Positions of values > 0, in groups that lie farther apart than `ratio`, the smallest first."""
    order = sorted(range(len(values)), key=lambda number: values[number])
    groups: list[list[int]] = []
    for number in order:
        if groups and values[number] < ratio * values[groups[-1][-1]]:
            groups[-1].append(number)
        else:
            groups.append([number])
    return groups


def _rung(values: Sequence[float]) -> float:
    """The round number nearest to the middle of a group, in ratio."""
    middle = float(np.median(values))
    return float(LADDER[np.abs(np.log(LADDER / middle)).argmin()])
