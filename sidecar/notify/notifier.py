"""Notifies programs and other systems of changes of this instance's role or verdict, and drills.

Acts: shutil.
"""

import shutil
from collections.abc import Mapping

from sidecar.events import Event, Hook
from sidecar.health.probes.prober import Loop
from sidecar.notify import webhook
from sidecar.notify.delivery import Delivery
from sidecar.notify.documents import Sender, Subject, change_of
from sidecar.notify.hooks import CommandHook
from sidecar.notify.rules import HookRules, Receiver
from sidecar.runtime.clock import Clock
from sidecar.runtime.errors import ConfigError, combined

_HOOKS = {
    "on_role_change": Subject.ROLE,
    "on_verdict_change": Subject.VERDICT,
    "on_drill": Subject.DRILL,
}
_LOOK = 0.05  # seconds between checks of whether all is delivered


class Notifier:
    """A hook on events that only queues changes; its loops deliver them.

    `emit` gets the events about deliveries. It is not this hook, and need not reach it.
    """

    def __init__(
        self,
        hooks: HookRules,
        targets: Mapping[str, Receiver],
        sender: Sender,
        clock: Clock,
        emit: Hook,
    ) -> None:
        self._sender = sender
        self._clock = clock
        self._hooks = {
            _HOOKS[key]: CommandHook(key, argv, hooks.timeout, clock, emit)
            for key, argv in hooks.commands.items()
        }
        self._targets = [
            Delivery(name, receiver, clock, emit) for name, receiver in targets.items()
        ]

    def __call__(self, event: Event) -> None:
        """Queue the change that an event stands for, if any."""
        change = change_of(event, self._sender, self._clock.wall())
        if change is None:
            return
        if hook := self._hooks.get(change.subject):
            hook.put(change)
        for target in self._targets:
            target.put(change)

    def loops(self) -> dict[str, Loop]:
        """The loops by name, each runs until cancelled; none without hooks and targets."""
        return {
            **{f"run {hook.name}": hook.run for hook in self._hooks.values()},
            **{f"notify {target.name}": target.run for target in self._targets},
        }

    async def settled(self) -> None:
        """Wait until every hook and target is settled. The caller sets the deadline."""
        listeners: list[CommandHook | Delivery] = [*self._hooks.values(), *self._targets]
        while not all(each.settled for each in listeners):
            await self._clock.sleep(_LOOK)


def check(hooks: HookRules, targets: Mapping[str, Receiver]) -> None:
    """Find mistakes now that would otherwise show at the first change.

    Raises:
        ConfigError: a program is missing, or a file cannot be read; with every mistake at once.
    """
    mistakes = [
        ConfigError(f"hooks.{key}: expected a program that can be run, found {argv[0]!r:.80}")
        for key, argv in hooks.commands.items()
        if shutil.which(argv[0]) is None
    ]
    for name, receiver in targets.items():
        try:
            webhook.check(receiver, f"notify.{name}")
        except ConfigError as error:
            mistakes.append(error)
    if mistakes:
        raise combined(mistakes)
