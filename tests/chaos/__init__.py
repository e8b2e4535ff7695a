"""Faults from outside while clients work: what they get is held against the rows of an undisturbed daemon.

    python -m tests.chaos --model MODEL.gguf --minutes 10 --seed 1

Two real daemons serve 16 clients: one with the model, and one whose vectors come from another server. One fault after the
other, in an order that the seed draws, hits a daemon, its worker, its disk, its clock, its model file or the other server.

    servers    the daemons, their small disk, their clock, and the other server
    faults     what goes wrong, and how it is mended
    clients    clients that try again as OpenAI's do, and hold every row against its reference
    run        all of it together
"""
