"""Rows taken through stages: in this process, on one machine or on a cluster."""
