"""Appendix B of the paper: from lists of videos to shards of clips whose objects are seen and heard."""
