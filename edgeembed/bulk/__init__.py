"""Files in, vectors out: jobs that are too large for one request, and that go on where they were broken off.

A job is a list of shards: so many records of the inputs that follow each other. What a shard holds depends on the inputs and
on the job's rules alone, never on who computes it or when, so that shards may be computed in any order, by any process.

    inputs, lines, tables, folders    what is read, from a position on that a shard's receipt tells
    shards                            records cut into shards; what a job is, and which of its shards are there
    computers, embedding              who makes vectors of texts: a running daemon, or an engine of our own
    writers                           shards as files, and one file of them all
    job                               the whole way
"""
