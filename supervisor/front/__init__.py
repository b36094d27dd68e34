"""The HTTP front: a child of its own, `python -P -m supervisor.front`. It reaches the supervisor through its sockets alone, like any other program."""
