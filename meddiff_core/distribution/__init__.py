"""From a release to whom it is for: pulled whole or in part, subsets, catalogues, other formats.

Stands on the release's reader and its manifest, and writes nothing of them twice.
"""
