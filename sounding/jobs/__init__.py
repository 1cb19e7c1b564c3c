"""Jobs: what one command line of `sounding generate` asks for, and many of them as a file."""
