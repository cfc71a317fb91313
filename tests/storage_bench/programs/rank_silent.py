"""A rank program that forgot to call rank_main."""
