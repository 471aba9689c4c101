"""Power cuts, kills at every system call and damage, for any embedded store."""
