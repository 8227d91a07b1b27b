"""What ``pcvpt data`` does: get, verify, convert and show the 24 tasks."""
