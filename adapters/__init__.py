"""Bridges to other people's software, one file or folder per third party.

Nothing is imported here: ``from suffice.adapters.optuna import ...`` loads Optuna and nothing else, and no adapter
imports another one's third party.
"""
