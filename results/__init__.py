"""The ground floor: what a run saw, how sure it is, where it ran, and how people read it.

Imports no sibling room; every bench writes its records through here.
"""
