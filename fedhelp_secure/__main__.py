"""``python -m fedhelp_secure`` is ``fedhelp``."""

from fedhelp_secure.cli import main

main()
