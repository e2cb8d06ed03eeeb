"""What everybody speaks of: findings with their reasons, and verdicts. Pure; health makes them."""
