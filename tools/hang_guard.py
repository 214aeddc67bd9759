"""How long tests wait for what has to happen, before they call it a hang."""

# Far beyond what a busy machine ever holds a process up, and within pytest's own limit for a test.
HANG_GUARD_S = 180.0
