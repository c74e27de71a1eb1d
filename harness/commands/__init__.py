"""The verbs of the `parity` command: a module named after each, imported when the verb is used."""
