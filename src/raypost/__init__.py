"""Teleradiology by signed, encrypted e-mail."""

__version__ = "0.1.0"
