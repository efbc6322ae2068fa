"""Which side each subject is on, whether the sides can be used, and who may be one person."""
