"""Where an environment can be recreated from: one module for each kind of source.

What comes from others is put into a folder of its own, checked, and described. Nothing here runs any of it.
"""
