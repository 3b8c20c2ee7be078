"""The cluster of this machine: `python -m cluster up | status | down | run -- COMMAND`."""

import os
import signal
import sys
from argparse import REMAINDER, ArgumentParser, ArgumentTypeError
from collections.abc import Sequence
from types import FrameType

from cluster.command import run
from cluster.environment import has_token
from cluster.errors import ClusterError
from cluster.head import POLL_S, forget, note, noted_head, running_head, start_head, stop_head
from cluster.lifecycle import connected, describe, find_address
from cluster.processes import attend, dying_with_parent


def up(num_cpus: int | None) -> int:
    """Leave a cluster running on this machine."""
    head = running_head()
    if head:
        print(f"a cluster is running already at {head.address}")
    else:
        down()
        head = start_head(num_cpus, _show_progress)
        note(head)
        print(f"the cluster is up at {head.address}")
    print(f"dashboard: {head.dashboard_url}")
    print("stages on this machine find it by themselves; a job is sent to it with:")
    print(
        f"  RAY_AUTH_MODE=token ray job submit --address {head.dashboard_url} --working-dir . -- "
        "python -m jobs.pipeline jobs/specs/recommender.yaml"
    )
    return 0


def status() -> int:
    """Print what the cluster has; 1 if there is none."""
    if find_address() is None:
        print("no cluster is running; start one with: python -m cluster up")
        return 1
    with connected() as cluster:
        print("\n".join(describe(cluster)))
    return 0


def down() -> int:
    """End the cluster that `up` started, with whatever is left of it if it crashed."""
    head = noted_head()
    if head:
        stop_head(head)
        forget()
        print(f"the cluster at {head.address} is down")
    return 0


def run_command(command: Sequence[str], num_cpus: int | None) -> int:
    """Run a command on the running cluster, or on one that lives as long as the command."""
    address = find_address()
    if address:
        return attend(command, _environment(address))
    # Bound to this process, so that even its kill -9 leaves no cluster that nobody knows of.
    head = start_head(num_cpus, _show_progress, before_exec=dying_with_parent())
    print(f"a cluster for this command is up at {head.address}, dashboard: {head.dashboard_url}", file=sys.stderr)
    try:
        return attend(command, _environment(head.address))
    finally:
        stop_head(head)


def main(arguments: Sequence[str]) -> int:
    """Dispatch to one of the four."""
    given = _parser().parse_args(arguments)
    signal.signal(signal.SIGTERM, _exit_on_signal)
    match given.action:
        case "up":
            return up(given.num_cpus)
        case "status":
            return status()
        case "down":
            return down()
        case _:
            command = given.command[1:] if given.command[:1] == ["--"] else given.command
            if not command:
                raise ClusterError("no command to run was given; the form is: python -m cluster run -- COMMAND ...")
            return run_command(command, given.num_cpus)


def _parser() -> ArgumentParser:
    parser = ArgumentParser(prog="python -m cluster", description=__doc__)
    actions = parser.add_subparsers(dest="action", required=True, metavar="up | status | down | run")
    starting = actions.add_parser("up", help="start a cluster on this machine and leave it running")
    actions.add_parser("status", help="print nodes, free CPUs and GPUs, dashboard; exit code 1 if none is running")
    actions.add_parser("down", help="end what `up` started")
    running = actions.add_parser("run", help="run a command on the running cluster, else on one just for it")
    for parsed in (starting, running):
        parsed.add_argument("--num-cpus", type=_positive, help="logical CPUs, by default what the machine has")
    running.add_argument("command", nargs=REMAINDER, metavar="-- COMMAND")
    return parser


def _positive(text: str) -> int:
    if not text.isdecimal() or int(text) < 1:
        raise ArgumentTypeError(f"'{text}' is not a whole number from 1 on")
    return int(text)


def _environment(address: str) -> dict[str, str]:
    authentication = {"RAY_AUTH_MODE": "token"} if has_token() else {}
    return {**authentication, **os.environ, "RAY_ADDRESS": address}


def _show_progress(waited_s: float) -> None:
    if sys.stderr.isatty():
        print(f"starting a cluster: {waited_s:.0f} s", end="\r", file=sys.stderr, flush=True)
    elif waited_s < POLL_S:
        print("starting a cluster ...", file=sys.stderr, flush=True)


def _exit_on_signal(number: int, frame: FrameType | None) -> None:
    sys.exit(128 + number)  # as an exception, so that whatever is half started is ended on the way out


if __name__ == "__main__":
    run(main)
