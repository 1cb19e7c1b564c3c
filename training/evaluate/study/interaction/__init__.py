"""The interaction study (table 2 of the paper): time, attempts and satisfaction, from the click node's log."""
