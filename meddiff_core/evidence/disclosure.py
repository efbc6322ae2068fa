"""How few real subjects may stand behind a figure that leaves the study.

A share or a mean of fewer could describe a person. Whatever is published of real scans asks this one number, so that
no part of the audit is laxer than another.
"""

FEWEST = 5
"""Real subjects behind every published figure, at least."""
