"""Releases on their way to people: which volumes somebody wants, a smaller release of them, and what lies in a folder."""
