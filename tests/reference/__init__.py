"""Literal, slow versions of the equations, with loops where the library has tensor operations: the tests' oracle."""
