"""``fedhelp privacy plan``: what a budget means, and what accuracy it costs, before it is set."""
