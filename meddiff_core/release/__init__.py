"""From accepted volumes to a folder that a stranger can understand, check and train on.

`open_release(path)` reads one; making, checking and describing one are modules of their own, so that a
reader of releases loads nothing of that.
"""

from meddiff_core.release.open_release import open_release

__all__ = ["open_release"]
