"""The command `rtd`."""

__all__ = []
