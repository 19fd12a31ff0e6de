"""`raypost ...`: one thin function per command."""

from raypost.cli.app import main

__all__ = ["main"]
