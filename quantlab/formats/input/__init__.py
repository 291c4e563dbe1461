"""Where bytes are: a file, a URL, an archive's member. Bounded, checked, never executed."""
