"""What every room uses: files written whole, checked dataclasses, imports of large libraries, threads."""
