"""Deposits: files and their metadata in an archive that runs InvenioRDM: drafts until somebody agrees."""
