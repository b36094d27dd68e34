"""What Warden decides. Pure: no clock, no input or output, no randomness, no logging."""
