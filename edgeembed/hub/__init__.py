"""Models on disk: the catalogue of known ones, their sources, the installed ones (`store`) and how a name becomes a file
(`install`). Nothing is imported here, so that a module that needs a struct does not import the downloads.
"""
