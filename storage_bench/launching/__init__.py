"""Ranks: who starts them, here and on other hosts, who watches over them, and how they meet."""
