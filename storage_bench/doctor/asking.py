"""Questions to what may never answer: a dead file server, a driver that spins.

    examine --- start ---> a process for each such subject, of its own, in /
       |                     a thread for each look -> {"name": ..., "seen": [...]}, a line each, as they come
       | <---- lines ------
       '-- after the limit: whoever has not answered is said to be silent, and the process is killed, not waited for

A thread would not do: a call that is stuck inside the kernel keeps its whole process from ending, and the shell that
waits for it.  The process holds none of our output open, so that nobody behind a pipe waits for it either.
"""

from __future__ import annotations

import json
import subprocess
import sys
import threading
from contextlib import suppress
from importlib import import_module
from pathlib import Path

from .finding import Finding, Seen, Subject, look

LIMIT_S = 2.0
START_LIMIT_S = 10.0  # a machine so busy that Python itself starts slowly is no fault of the storage
BURIAL_S = 0.2
ENDS_WITHIN_S = 1.0
HELLO = "asking"


class Witness:
    """A process that looks at one subject."""

    def __init__(self, subject: Subject, path: Path) -> None:
        self._subject = subject
        self._answers: dict[str, Seen] = {}
        self._asked = threading.Event()
        code = f"from {__name__} import answer; answer({subject.module!r}, {str(path)!r})"
        self._process = subprocess.Popen(
            [sys.executable, "-P", "-c", code],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            cwd="/",
        )
        self._thread = threading.Thread(target=self._listen, daemon=True)
        self._thread.start()

    def findings(self, *, limit_s: float = LIMIT_S) -> list[Finding]:
        """What it has told `limit_s` after it was asked; the rest is silence."""
        self._asked.wait(START_LIMIT_S)
        self._thread.join(limit_s)
        if not self._thread.is_alive():  # it has closed its mouth, and is about to end
            with suppress(subprocess.TimeoutExpired):
                self._process.wait(ENDS_WITHIN_S)
        answers, status = dict(self._answers), self._process.poll()
        self._process.kill()
        with suppress(subprocess.TimeoutExpired):
            self._process.wait(BURIAL_S)  # one that is stuck inside the kernel is left to whoever comes after us
        silent = Seen(None, f"did not answer within {limit_s:g} s", self._subject.when_silent)
        if status:
            silent = Seen(
                None, f"cannot be told: the process that looks ended with status {status}", "please report it"
            )
        return [Finding(self._subject.group, name, *answers.get(name, silent)) for name in self._subject.looks]

    def _listen(self) -> None:
        assert self._process.stdout is not None
        with self._process.stdout as lines:
            for line in lines:
                told = json.loads(line)
                if told == HELLO:
                    self._asked.set()
                else:
                    self._answers[told["name"]] = Seen(*told["seen"])
        self._asked.set()  # it ended, if before it was asked


def answer(module: str, path: str) -> None:
    """Look at everything of the subject in `module`, all at once, and print each answer when it comes."""
    subject: Subject = import_module(module).SUBJECT
    print(json.dumps(HELLO), flush=True)
    lock = threading.Lock()

    def tell(name: str) -> None:
        line = json.dumps({"name": name, "seen": look(subject, name, Path(path))})
        with lock:
            print(line, flush=True)

    threads = [threading.Thread(target=tell, args=(name,)) for name in subject.looks]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
