"""A release in the formats of other tools, with the same voxels, the same place in the world and its provenance.

An export that exchanges left and right, scales integers or loses the name of a volume is noticed by nobody before the
paper is out; so each format's round trip through its own library is a test.
"""
