"""One strong language model out of many: the program `glue` from Python."""

from ._program import GlueError, find_program, run

__all__ = ["GlueError", "find_program", "run"]
