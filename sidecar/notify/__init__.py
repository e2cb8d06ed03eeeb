"""Notifications of changes of role and verdict: commands, webhooks and alerts for Alertmanager.

It may import the registry, models, health and the rooms below (the layers are in pyproject.toml).
Start with `notifier.py`, the hook on events; `documents.py` says what is sent.
"""
