"""Other projects' weights, read into the networks of this one."""
