"""What runs Warden's decisions: one inbox, one writer, actions performed through ports."""
