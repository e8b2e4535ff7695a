"""Requests of programs that cannot run in a test: editors' plugins, desktop apps, web apps with a database.

    python -m tests.clients.recorded --model MODEL.gguf [--program NAME ...] [--tree PATH] [--all]

Each TOML file holds the requests of one program as its published source makes them, with the setting that a user fills in,
and what the program reads from the answers. They are sent to a real daemon with all-MiniLM-L6-v2 and a tiny reranker.

    name, repository, commit     of the program; `source` of a request is a path there
    [[provider]]                 one of the services that the program can be pointed at
      names                      as the program calls it
      field, value               the setting for the address, and what docs/clients.md says to fill in
      join                       how the program makes an address of `value`: "append" (default), or "resolve" as browsers do
      headers                    of each of its requests
      [[provider.request]]
        what, source             what it is for, and where it is made
        send                     method, and the path that is joined to `value`
        headers, body            additional headers; JSON
        holds                    Python expressions that must be true, with the names of `tests.published.answers`:
                                 a is the answer, b our own rows of "first text" and "second text"
        differs, instead         why it does not hold, as docs/clients.md says it, and what does
"""
