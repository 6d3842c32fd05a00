"""The command `rtd`: a file for each verb, whose `run` takes the options of the command line."""

__all__ = []
