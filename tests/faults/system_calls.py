"""Reads what strace wrote, and judges whether each answer left after its event's fsync."""

import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

TRACED = (
    "read,recvfrom,recvmsg,write,writev,sendto,sendmsg,pwrite64,pwritev,pwritev2,fsync,fdatasync"
)
COMMAND = ("strace", "-f", "--seccomp-bpf", "-y", "-s", "9000", "-e", f"trace={TRACED}", "-o")

RECEIVES = {"read", "recvfrom", "recvmsg"}
SENDS = {"write", "writev", "sendto", "sendmsg"}
WRITES = {"pwrite64", "pwritev", "pwritev2", "write", "writev"}
SYNCS = {"fsync", "fdatasync"}

LINE = re.compile(r"(?P<thread>\d+) +(?P<rest>.*)")
CALL = re.compile(r"(?P<name>\w+)\((?P<fd>\d+)<(?P<target>[^>]*)>(?P<text>.*)")
RESUMED = re.compile(r"<\.\.\. \w+ resumed>(?P<text>.*)")


@dataclass
class Call:
    """One system call on a file or socket; `began` and `ended` are lines of the trace."""

    name: str
    target: str
    text: str
    began: int
    ended: int | None = None


def parse(lines: Iterable[str]) -> list[Call]:
    """The calls in the order in which they began; a call cut in two by another is made whole."""
    calls: list[Call] = []
    open_calls: dict[str, Call] = {}
    for number, line in enumerate(lines):
        matched = LINE.match(line)
        if matched is None:
            continue
        thread, rest = matched["thread"], matched["rest"]
        if (resumed := RESUMED.match(rest)) and thread in open_calls:
            call = open_calls.pop(thread)
            call.text += resumed["text"]
            call.ended = number
        elif found := CALL.match(rest):
            call = Call(found["name"], found["target"], found["text"], number)
            calls.append(call)
            if rest.endswith("<unfinished ...>"):
                open_calls[thread] = call
            else:
                call.ended = number
    return calls


def of(calls: Iterable[Call], names: set[str], target: str) -> Iterator[Call]:
    return (call for call in calls if call.name in names and target in call.target)


def early_answers(calls: list[Call], markers: Iterable[str], log: str) -> list[str]:
    """The requests, named by the marker in each, whose 200 left before its event was synced.

    `log` is the end of the path of the file that the log writes.
    """
    received = list(of(calls, RECEIVES, "socket:"))
    sent = [call for call in of(calls, SENDS, "socket:") if "HTTP/1.1 200" in call.text]
    written = [call for call in of(calls, WRITES, log) if call.name.startswith("p")]
    synced = list(of(calls, SYNCS, log))
    complaints = []
    for marker in markers:
        request = [call for call in received if marker in call.text]
        if not request or request[-1].ended is None:
            complaints.append(f"{marker}: no request in the trace")
            continue
        came, socket = request[-1].ended, request[-1].target
        answer = next((c for c in sent if c.target == socket and c.began > came), None)
        event = next((c for c in written if marker in c.text and c.began > came), None)
        if answer is None or event is None or event.ended is None:
            complaints.append(f"{marker}: {'no answer' if answer is None else 'no event'}")
            continue
        if not any(
            sync.began > event.ended and sync.ended is not None and sync.ended < answer.began
            for sync in synced
        ):
            complaints.append(
                f"{marker}: event written in line {event.ended}, answered in line {answer.began}, "
                "no fsync began and ended in between"
            )
    return complaints
