"""What people do to an election by hand: the operator's verbs, but for typing and printing."""
