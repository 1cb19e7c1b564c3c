"""Listening tests (section 4.1, appendix C and figure 11 of the paper): a web page for raters, and the report."""
