"""Synthetic brains: T1-weighted volumes with label maps, ages and sexes that belong to nobody.

They let a study run from end to end where no patient data may be, and give tests an anatomy whose laws are known:
ventricles grow and the cortex thins with age. Everything follows from formulas in millimetres, without a template, so
no real voxel can leak from them.
"""
