"""Label groups for parcellations of FreeSurfer, FastSurfer and SynthSeg, by the numbers of FreeSurferColorLUT.txt."""

from collections.abc import Mapping, Sequence


def _both(left: int, right: int, count: int) -> list[int]:
    """Runs of values of the left and of the right hemisphere."""
    return [*range(left, left + count), *range(right, right + count)]


FREESURFER: Mapping[str, Sequence[int]] = {
    "ventricles": [4, 5, 14, 15, 31, 43, 44, 63, 72],
    "csf": [24],
    "hippocampus": [17, 53],
    "amygdala": [18, 54],
    "deep_grey": [9, 10, 11, 12, 13, 26, 28, 48, 49, 50, 51, 52, 58, 60],
    "brain_stem": [16],
    "cerebellum": [7, 8, 46, 47],
    "white_matter": [2, 41, 77, 78, 79, *range(251, 256), *_both(3000, 4000, 36), 5001, 5002],
    "cortex": [3, 42, *_both(1000, 2000, 36), *_both(11100, 12100, 76)],
}
"""Choroid plexus counts to the ventricles, corpus callosum and hypointensities to the white matter; the cortex of
aparc+aseg and of the a2009s atlas, the white matter of wmparc."""
