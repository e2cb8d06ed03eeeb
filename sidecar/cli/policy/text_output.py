"""Prints the answers of `triton-sidecar policy`, as text or with --json."""

import dataclasses
import json
import sys

from sidecar.operator.policy_edit import PolicyEdit, StoredPolicy
from sidecar.traffic import document
from sidecar.traffic.policy import TrafficPolicy


def stored(seen: StoredPolicy, policy: TrafficPolicy, whole: bool, as_json: bool) -> None:
    """The answer of `get`."""
    found = document.tree(policy, whole)
    if as_json:
        return _print(policy=found, index=seen.index)
    if not seen.index:
        _note("there is no policy; the defaults apply")
    return print(json.dumps(found, indent=2))


def edit(found: PolicyEdit, written: bool, as_json: bool) -> None:
    """The answer of a verb that changes the policy, or would."""
    for warning in found.warnings:
        _note(warning)
    if as_json:
        return _print(
            policy=document.tree(found.after),
            changes=[dataclasses.asdict(change) for change in found.changes],
            unreadable=found.seen.why or None,
            doubts=found.warnings,
            written=written and not found.empty,
        )
    for line in found.seen.why.splitlines():
        _note(f"replaced, as it cannot be read: {line}" if written else line)
    for change in found.changes:
        print(change)
    if found.empty:
        print("nothing changes")
    return None


def valid(file: str, policy: TrafficPolicy, as_json: bool) -> None:
    """The answer of `validate`."""
    if as_json:
        return _print(policy=document.tree(policy))
    return print(f"{'standard input' if file == '-' else file} is a valid policy")


def removed(seen: StoredPolicy, as_json: bool) -> None:
    """The answer of `reset`."""
    if as_json:
        was = document.tree(seen.policy) if seen.policy and seen.index else None
        return _print(removed=bool(seen.index), was=was, unreadable=seen.why or None)
    if not seen.index:
        return print("there is no policy; the defaults apply")
    if seen.policy:
        # Printed so that it can be set again.
        print(json.dumps(document.tree(seen.policy), indent=2))
    return _note("that was the policy; the defaults apply now")


def _note(text: str) -> None:
    print(f"triton-sidecar: {text}", file=sys.stderr)


def _print(**fields: object) -> None:
    print(json.dumps({"done": True, **fields}, indent=2))
