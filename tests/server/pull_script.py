"""A script in place of `edgeembed pull`, which waits; its argument is a file that says what it did."""

WAITS = """
import pathlib, signal, sys, time
signal.signal(signal.SIGINT, signal.default_int_handler)  # as `edgeembed pull --json` does
log = pathlib.Path(sys.argv[1])
def note(word):
    with log.open("a") as file:
        file.write(word + "\\n")
try:
    note("started")
    print('{"what": "tiny", "done": 1, "total": 2}', flush=True)
    while not log.with_name("go on").exists():
        time.sleep(0.01)
except KeyboardInterrupt:
    note("interrupted")
    sys.exit(130)
print('{"installed": "tiny:F32"}', flush=True)
"""
