"""Finding and running the program."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import sysconfig
import threading
from pathlib import Path
from typing import Any, Mapping

NAME = "glue.exe" if os.name == "nt" else "glue"


class GlueError(Exception):
    """A command that failed. `status` is its exit status, or minus the number of the signal that ended it; 1 stands for
    a failure, 2 for a request that was refused before anything was done."""

    def __init__(self, message: str, status: int) -> None:
        super().__init__(message)
        self.status = status


def find_program() -> str:
    """The path of the program that was installed with this module.

    Raises FileNotFoundError where there is none, with the places that were searched.
    """
    user = sysconfig.get_preferred_scheme("user") if hasattr(sysconfig, "get_preferred_scheme") else f"{os.name}_user"
    # Of the environment, of the user, and of `pip install --target`, where the module and `bin` are neighbours.
    places = [Path(sysconfig.get_path("scripts")), Path(sysconfig.get_path("scripts", user)), Path(__file__).parents[1] / "bin"]
    for place in places:
        if (place / NAME).is_file():
            return str(place / NAME)
    raise FileNotFoundError(f"the program {NAME} of model-glue is in none of {', '.join(map(str, places))}")


def run(
    *arguments: object,
    json_output: bool = True,
    cwd: str | os.PathLike[str] | None = None,
    env: Mapping[str, str] | None = None,
) -> Any:
    """Runs `glue` with these arguments, and waits for it.

    Progress and notes go to standard error while it runs. Returns its JSON document (`--json` is added where it is
    missing), or its output as text without `json_output`. `env` is added to the environment.

    Raises GlueError with the program's own message for any exit status but 0.
    """
    words = [os.fspath(word) if isinstance(word, os.PathLike) else str(word) for word in arguments]
    if json_output and "--json" not in words:
        words.append("--json")
    process = subprocess.Popen(
        [find_program(), *words], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, encoding="utf-8", errors="replace",
        cwd=cwd, env={**os.environ, **env} if env else None,
    )
    said: list[str] = []

    def listen() -> None:
        for line in process.stderr:
            said.append(line)
            sys.stderr.write(line)

    # Both streams at once: a full pipe would hold the program up.
    listener = threading.Thread(target=listen, daemon=True)
    with process:
        listener.start()
        try:
            output = process.stdout.read()
            listener.join()
        except BaseException:
            process.terminate()
            raise
    if process.returncode != 0:
        errors = [line for line in said if line.startswith(("error: ", "hint: "))]
        raise GlueError("".join(errors or said[-1:]).strip() or f"exit status {process.returncode}", process.returncode)
    return json.loads(output) if json_output else output
