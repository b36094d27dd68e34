"""Model workers: programs of their own that speak `supervisor.wire`. Nothing in `supervisor` imports them."""
