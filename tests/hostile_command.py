"""A command that answers as the example in plain Python does, and misbehaves in one way at six query heads.

The way is its argument: a name of `WAYS`.
"""

# ruff: noqa: ARG001 - most ways do not read what they are asked

from __future__ import annotations

import json
import os
import signal
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parent.parent / "examples" / "protocol"))

import target

HEADS = 6
Request = dict[str, Any]


def say(data: bytes) -> None:
    os.write(1, data)


def done(request: Request, times: int = 1, **changes: Any) -> None:
    answer = {"type": "done", "id": request["id"], **changes}
    line = json.dumps({name: value for name, value in answer.items() if value is not None}).encode() + b"\n"
    say(line * times)  # at once: what comes late would be charged to the next request


def right(request: Request) -> None:
    target.answer(request)


def ends(request: Request) -> None:
    os._exit(7)


def dies(request: Request) -> None:
    os.kill(os.getpid(), signal.SIGSEGV)


def ends_in_a_line(request: Request) -> None:
    say(b'{"type": "do')
    os._exit(0)


def closes(request: Request) -> None:
    os.close(1)
    time.sleep(1000)


def hangs(request: Request) -> None:
    time.sleep(1000)


def without_end(request: Request) -> None:
    while True:
        say(b"x" * 4096)


def twice(request: Request) -> None:
    right(request)
    done(request, times=2)


def greets(request: Request) -> None:
    say(b"\x1b[1mready\n")


def truncates(request: Request) -> None:
    right(request)
    path = Path(request["write"])
    path.write_bytes(path.read_bytes()[:-1])
    done(request)


def writes(content: bytes) -> Callable[[Request], None]:
    def way(request: Request) -> None:
        Path(request["write"]).write_bytes(content)
        done(request)

    return way


def writes_nothing(request: Request) -> None:
    done(request)


def writes_a_folder(request: Request) -> None:
    Path(request["write"]).mkdir()
    done(request)


def renames(request: Request) -> None:
    results = target.attention(target.read_tensors(request["tensors"]), request["options"])
    target.write_tensors(request["write"], {"out": results["output"]})
    done(request)


def writes_more(request: Request) -> None:
    target.write_tensors(
        request["write"], target.attention(target.read_tensors(request["tensors"]), request["options"])
    )
    done(request)


def changes_input(request: Request) -> None:
    right(request)
    path = Path(request["tensors"])
    path.chmod(0o600)
    path.write_bytes(path.read_bytes()[:-1] + b"\x00")
    done(request)


def removes_input(request: Request) -> None:
    right(request)
    Path(request["tensors"]).unlink()
    done(request)


def allocates(request: Request) -> None:
    right(request)
    bytearray(2**30)
    done(request)


WAYS: dict[str, Callable[[Request], None]] = {
    "garbage": greets,
    "not-utf8": lambda _: say(b"\xff\xfe\n"),
    "not-an-object": lambda _: say(b"[1]\n"),
    "empty-line": lambda _: say(b"\n"),
    "deep": lambda _: say(b"[" * 100_000 + b"\n"),
    "without-end": without_end,
    "wrong-id": lambda request: done(request, id=99),
    "id-of-text": lambda request: done(request, id=str(request["id"])),
    "without-id": lambda request: done(request, id=None),
    "long-type": lambda request: done(request, type="x" * 100_000),
    "wrong-type": lambda request: done(request, type="finished"),
    "answer-to-start": lambda request: done(request, type="started"),
    "unknown-member": lambda request: done(request, seconds=3),
    "no-reason": lambda request: done(request, type="unsupported"),
    "twice": twice,
    "ends": ends,
    "dies": dies,
    "ends-in-a-line": ends_in_a_line,
    "closes": closes,
    "hangs": hangs,
    "nothing-written": writes_nothing,
    "folder-written": writes_a_folder,
    "truncated": truncates,
    "not-safetensors": writes(b"output"),
    "empty-file": writes(b""),
    "wrong-name": renames,
    "one-more": writes_more,
    "changes-input": changes_input,
    "removes-input": removes_input,
    "allocates": allocates,
    "error": lambda request: done(request, type="error", text="no kernel for\nsix \x1b[1mheads"),
    "unsupported": lambda request: done(request, type="unsupported", reason="six heads are too many"),
}


def main() -> None:
    for line in sys.stdin:
        request = json.loads(line)
        if request["type"] == "stop":
            for note in sys.argv[2:]:
                Path(note).write_text("stopped", encoding="utf8")
            break
        if request["type"] == "start":
            done(request, **target.STARTED)
        elif target.read_tensors(request["tensors"])["query"].shape[-3] == HEADS:
            print("six heads", file=sys.stderr, flush=True)
            WAYS[sys.argv[1]](request)
        else:
            right(request)
            done(request)


if __name__ == "__main__":
    main()
