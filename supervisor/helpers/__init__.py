"""Children of the supervisor's own, started by command line: each does one thing that the supervisor's process must not do itself."""
