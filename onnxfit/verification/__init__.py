"""Verification: attack a hardened file and the one before it, and say yes or no."""
