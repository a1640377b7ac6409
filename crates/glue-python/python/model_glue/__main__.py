"""`python -m model_glue` and the command `model-glue`: the program `glue`, with the same arguments."""

import os
import sys

from ._program import find_program


def main() -> None:
    program = find_program()
    arguments = [program, *sys.argv[1:]]
    if os.name == "posix":
        # The program takes the place of Python, so that signals reach it.
        os.execv(program, arguments)
    import subprocess

    raise SystemExit(subprocess.run(arguments, check=False).returncode)


if __name__ == "__main__":
    main()
