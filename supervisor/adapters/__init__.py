"""What touches the outside: one file for each outside thing, behind the ports of `runtime`."""
