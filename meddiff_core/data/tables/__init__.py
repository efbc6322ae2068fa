"""Tables of subjects and of scans: read strictly, every cell a string until its column's kind is known."""
