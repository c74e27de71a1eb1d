"""Defects and harmless changes to plant in an opened pipeline: what the self-test judges the judge by.

Every module here is a plugin (`--plugin tests.selftest.faults.weights`) that registers patches; which of
them is run where, and what a detector should say of it, is data in the rows beside this folder. A defect
is planted where a real one would sit: in a module, a config, a method of the stack or the stack's own
loop, so that the native run and the stages share it wherever they share the code.
"""
