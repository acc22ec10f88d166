"""Other people's formats and tools, one file each."""
