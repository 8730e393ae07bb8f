"""Gateways without a processor to spare, and the score-workers that score for them."""
