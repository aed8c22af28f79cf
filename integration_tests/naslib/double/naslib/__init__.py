"""A small double of NASLib, for tests where the real one is absent.

Written from the contract in docs/naslib.md, not from NASLib's code: the modules, classes and methods that BaLeNAS uses,
on search spaces a thousand times smaller, with the breaks that must be coped with.
"""
