"""Bad input: random cases at every entrance of ncpipe, each in a sandbox, each with one of three outcomes.

``make fuzz`` runs them all and prints how many were accepted, refused by one line, or failed.
"""
