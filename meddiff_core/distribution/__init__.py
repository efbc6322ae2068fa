"""A release on its way to those who use it: taken whole or in part, and in the format of their own tools."""
