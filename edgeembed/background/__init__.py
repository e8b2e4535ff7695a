"""The daemon in the background: started, stopped and looked at, by commands and by the tray.

    control.Background      start, stop, restart, status
    process                 a daemon as a process of its own, and the process that listens at an address
    seen                    who answers at an address, and in which state it is
    log_file                the end of a log file, and what is added to it
    end_reason              why a daemon ended
    report                  takes what happens meanwhile, for people

There is no file with a process id, which a crash would leave behind: who answers at the daemon's address is asked, and if
nobody does, the system is asked which process listens there.
"""
