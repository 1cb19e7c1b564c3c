"""Systems that the paper compares with, and ours, behind one interface, to sound all items of a folder."""
