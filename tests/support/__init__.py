"""What tests share: a world in virtual time, incident scripts, diagrams."""
