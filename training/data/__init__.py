"""Data that the recipes train on."""
