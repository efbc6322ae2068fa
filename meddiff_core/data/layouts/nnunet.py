"""Data sets of nnU-Net and of the Medical Segmentation Decathlon: imagesTr, labelsTr, dataset.json.

An image of nnU-Net ends in its channel (`case_0000`) and its label map does not; an image of the Decathlon may
hold its channels in one file. One channel is used; the names of the labels come from dataset.json.
"""

import json
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from meddiff_core.data.layouts.labels import is_label_map
from meddiff_core.data.layouts.listing import FoundImage, Listing, plain
from meddiff_core.data.layouts.walking import Walk, counted, relative
from meddiff_core.data.nifti import is_volume, stem_of
from meddiff_core.errors import ConfigurationError
from meddiff_core.study import advise
from meddiff_core.types import Note

IMAGES, LABELS, DESCRIPTION = "imagesTr", "labelsTr", "dataset.json"
CHANNEL = re.compile(r"(.+)_(\d{4})")
MOST_CHANNELS = 10
MOST_BYTES = 64 << 20
"""Of a dataset.json, which lists every scan."""
NO_GROUP = ("background", "ignore", "clear label", "unlabeled")


@dataclass(frozen=True)
class Description:
    """What dataset.json says."""

    channels: dict[int, str] = field(default_factory=dict)
    """Name by number."""
    groups: dict[str, list[int]] = field(default_factory=dict)
    in_one_file: bool = False
    """Whether an image holds all channels (Decathlon, `tensorImageSize: 4D`)."""
    notes: tuple[Note, ...] = ()
    source: Path | None = None


def nnunet_root(walk: Walk) -> Path | None:
    """Where such a data set begins: the folder itself, or one below it; None where there is none.

    Raises:
        ConfigurationError: several folders hold one each.
    """
    tops = {path.relative_to(walk.root).parts[:-1] for path in walk.files if is_volume(path)}
    if walk.root.name == IMAGES or any(folders[:1] == (IMAGES,) for folders in tops):
        return walk.root
    below = sorted({folders[0] for folders in tops if folders[1:2] == (IMAGES,)})
    if len(below) > 1:
        raise ConfigurationError(
            f"data.images: must be one nnU-Net data set, holds {len(below)}: {', '.join(below[:3])}; name one of them"
        )
    if below:
        return walk.root / below[0]
    stems = [stem_of(path) for path in walk.files if is_volume(path) and not is_label_map(path, walk.root)]
    return walk.root if _end_in_channels(stems, fewest_cases=2) else None


def _end_in_channels(stems: Sequence[str], fewest_cases: int = 1) -> bool:
    """`a_0000, a_0001, b_0000, b_0001`, but not `hippocampus_0000 ... hippocampus_0259`."""
    matches = [CHANNEL.fullmatch(stem) for stem in stems]
    pairs = [(match[1], int(match[2])) for match in matches if match]
    cases, channels = {case for case, _ in pairs}, {channel for _, channel in pairs}
    return len(pairs) == len(stems) and len(cases) >= fewest_cases and 0 in channels and max(channels) < MOST_CHANNELS


def list_nnunet(walk: Walk, channel: int | str | None) -> Listing:
    """Training images by channel; where the data set's own folder was named, its label maps too.

    Raises:
        ConfigurationError: the channel is none of the data set's, or dataset.json is no JSON.
    """
    whole = any(_top(path, walk) == IMAGES for path in walk.files)
    described = read_description(walk.root / DESCRIPTION, walk.root.absolute().parent / DESCRIPTION)
    volumes = [path for path in walk.files if is_volume(path)]
    images = [path for path in volumes if (_top(path, walk) == IMAGES if whole else not is_label_map(path, walk.root))]
    labels = [path for path in volumes if whole and _top(path, walk) == LABELS]
    found = _images(images, walk.root, described)
    aside = Counter(_top(path, walk) for path in volumes if whole and _top(path, walk) not in (IMAGES, LABELS))
    return Listing(
        found=tuple(found),
        unread=walk.unread,
        notes=(*described.notes, *(Note(top, f"left out: {counted(n, 'file')}") for top, n in aside.items())),
        layout=_in_words(found, walk, described),
        kinds_key="data.channel",
        chosen_kind=None
        if channel is None
        else _kind_of(channel, described, sorted({str(image.kind) for image in found})),
        labels=tuple(labels) or None,
        label_groups=described.groups,
        sources=(described.source,) if described.source else (),
    )


def _top(path: Path, walk: Walk) -> str:
    return path.relative_to(walk.root).parts[0]


def _images(images: Sequence[Path], root: Path, described: Description) -> list[FoundImage]:
    if _end_in_channels([stem_of(path) for path in images]):
        return [_of_one_channel(path, root, described) for path in images]
    channels = sorted(described.channels.items()) if described.in_one_file else [(None, "")]
    return [
        FoundImage(stem, path, relative(path, root), stem=stem, kind=name, channel=number)
        for path in images
        for stem in (plain(stem_of(path)),)
        for number, name in channels
    ]


def _of_one_channel(path: Path, root: Path, described: Description) -> FoundImage:
    stem, _, digits = plain(stem_of(path)).rpartition("_")
    kind = described.channels.get(int(digits), _unnamed(int(digits)))
    return FoundImage(stem, path, relative(path, root), stem=stem, kind=kind)


def _unnamed(channel: int) -> str:
    return f"channel {channel}"


def _kind_of(channel: int | str, described: Description, known: Sequence[str]) -> str:
    """The kind that a channel's number or name stands for."""
    if str(channel).isdigit():
        kind = described.channels.get(int(channel), _unnamed(int(channel)))
    else:
        kind = next((name for name in known if name.lower() == str(channel).lower()), str(channel))
    if kind not in known:
        raise ConfigurationError(
            f"data.channel: must be a channel of the data set, is {channel!r}; {advise(kind, known, 'channels')}"
        )
    return kind


def _in_words(found: Sequence[FoundImage], walk: Walk, described: Description) -> str:
    name = walk.root.resolve()
    folder = name.parent.name if name.name == IMAGES else name.name
    files = _end_in_channels([stem_of(image.image) for image in found])
    channels = counted(len({image.kind for image in found}), "channel")
    return f"{'nnU-Net' if files else 'Decathlon'} ({folder}, {channels})"


def read_description(*places: Path) -> Description:
    """What the first dataset.json of several places says; nothing where there is none.

    Raises:
        ConfigurationError: it is no JSON object.
    """
    path = next((place for place in places if place.is_file()), None)
    if path is None:
        return Description()
    try:
        if (size := path.stat().st_size) > MOST_BYTES:
            raise ValueError(f"must have at most {MOST_BYTES} bytes, has {size}")
        content = json.loads(path.read_text(encoding="utf-8-sig"))
    except (ValueError, RecursionError) as error:
        raise ConfigurationError(f"data.images: {DESCRIPTION} must be JSON: {error}") from error
    if not isinstance(content, dict):
        raise ConfigurationError(f"data.images: {DESCRIPTION} must hold an object, holds {type(content).__name__}")
    channels = _channels(content.get("channel_names", content.get("modality")))
    groups, notes = _groups(content.get("labels"))
    in_one_file = content.get("tensorImageSize") == "4D" and len(channels) > 1
    return Description(channels, groups, in_one_file, tuple(notes), path)


def _channels(names: Any) -> dict[int, str]:
    """Name by number; channels of the same name are distinguished by their numbers."""
    if not isinstance(names, Mapping):
        return {}
    texts = {int(number): str(name) for number, name in names.items() if str(number).isdigit()}
    twice = {name for name, count in Counter(texts.values()).items() if count > 1}
    return {number: f"{name} {number}" if name in twice else name for number, name in texts.items()}


def _groups(labels: Any) -> tuple[dict[str, list[int]], list[Note]]:
    """Groups by name, from {name: value or values} (nnU-Net) or {value: name} (Decathlon)."""
    if not isinstance(labels, Mapping):
        return {}, []
    by_name: dict[str, list[int]] = {}
    for key, value in labels.items():
        name, values = (value, [int(key)]) if isinstance(value, str) and str(key).isdigit() else (key, _values(value))
        if values and str(name).lower() not in NO_GROUP:
            by_name[_group_name(str(name), values, by_name)] = values
    shared = [value for value, count in Counter(v for own in by_name.values() for v in own).items() if count > 1]
    if not shared:
        return by_name, []
    return {}, [
        Note(DESCRIPTION, f"its labels are regions that overlap (value {shared[0]}), and are not used as label groups")
    ]


def _values(value: Any) -> list[int]:
    """Label values of one name, background left out."""
    values = value if isinstance(value, list) else [value]
    return [int(one) for one in values if isinstance(one, int) and not isinstance(one, bool) and one > 0]


def _group_name(name: str, values: Sequence[int], taken: Mapping[str, Any]) -> str:
    plain_name = re.sub(r"[^0-9a-z]+", "_", name.lower()).strip("_") or f"label_{values[0]}"
    return plain_name if plain_name not in taken else f"{plain_name}_{values[0]}"
