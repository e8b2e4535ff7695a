"""Files in, vectors out: jobs that are too large for one request and can be resumed.

A job is a list of shards: consecutive records of the inputs. What a shard holds depends only on the inputs and the job's
rules, not on who computes it or when, so shards can be computed in any order and by any process.

    inputs, lines, tables, folders    read records, starting at any position that a shard's receipt names
    shards                            records cut into shards; what a job is, and which shards are finished
    embedders, cluster, embedding     turn texts into vectors: the running daemon, this process, or a Ray cluster
    writers, outputs                  shards as files, and one file of all shards
    job                               runs a job from start to end
"""
