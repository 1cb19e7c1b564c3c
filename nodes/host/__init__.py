"""What knows the host: folders, model memory, types on the wires."""
