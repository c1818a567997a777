"""Fault runs: what is broken when, how it recovers, and the ledger that proves it."""
