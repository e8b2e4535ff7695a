"""Models: what there is (`catalogue`), where it comes from (`sources`), what is on this machine (`store`), and the way from
a name to a file (`install`). Nothing is imported here, so that whoever needs a struct does not pay for downloads.
"""
