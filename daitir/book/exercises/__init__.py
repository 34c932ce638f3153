"""Checks of the exercises: each takes a learner's function and compares it with the library's.

A check returns `PASSED`, or raises AssertionError with a hint about what went wrong. They stand by
chapter: `foundations` 00 to 05, `methods` 06 to 10, `seeing` 11 to 13, `scale` 14 and 15.
"""
