"""Shared by the tests of the pure machines: no clock decides whether a property holds."""

from hypothesis import settings

settings.register_profile("pure", deadline=None)
settings.load_profile("pure")
