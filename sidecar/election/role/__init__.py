"""What the role of primary entails: handover, promotion, strict mode, model sets and the history.

It may import the rest of the election and the rooms below it; `election/participant.py` wires it.
Start with `handover.py`, or with `promotion.py` for cold standbys.
"""
