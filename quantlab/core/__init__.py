"""The numbers: no file, no screen, no process. What decides a figure lies here, or in a reader of `formats`."""
