"""zstd frames that are asked how much they hold before any memory is taken for it.

A chunk that came over a network can claim gigabytes with a few bytes; a frame without a checksum cannot show damage.
"""

from numcodecs.zstd import Zstd

from meddiff_core.errors import IntegrityError

_MAGIC = bytes.fromhex("28b52ffd")
_SINGLE_SEGMENT, _CHECKSUM, _RESERVED = 0x20, 0x04, 0x08


def decompress(data: bytes, nbytes: int) -> bytearray:
    """The content of one frame with checksum that says of itself that it holds `nbytes` bytes.

    Raises:
        IntegrityError: it says otherwise, or its bytes are damaged.
    """
    claimed = frame_size(data)
    if claimed != nbytes:
        raise IntegrityError(f"must hold {nbytes} bytes, says that it holds {claimed}")
    content = bytearray(nbytes)
    try:
        Zstd().decode(data, out=content)
    except (RuntimeError, ValueError) as error:
        detail = " ".join(str(error).split())[:200]
        raise IntegrityError(f"cannot be decompressed: {type(error).__name__}: {detail}") from error
    return content


def frame_size(data: bytes) -> int:
    """Bytes that a zstd frame says it holds (RFC 8878, 3.1.1.1).

    Raises:
        IntegrityError: it is no frame, does not say, or has no checksum.
    """
    if len(data) < 6 or data[:4] != _MAGIC or data[4] & _RESERVED:
        raise IntegrityError("must be a zstd frame, is none")
    flags = data[4]
    if not flags & _CHECKSUM:
        raise IntegrityError("must be a zstd frame with a checksum, has none")
    width = (int(bool(flags & _SINGLE_SEGMENT)), 2, 4, 8)[flags >> 6]
    start = 5 + (not flags & _SINGLE_SEGMENT) + (0, 1, 2, 4)[flags & 3]
    if width == 0 or len(data) < start + width:
        raise IntegrityError("must be a zstd frame that says how much it holds, does not")
    return int.from_bytes(data[start : start + width], "little") + (256 if width == 2 else 0)
