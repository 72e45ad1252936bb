"""What every test process needs before it imports or starts anything."""

import os
import signal

# One computing thread a process: tests start many, and idle matrix threads spin.
for _name in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"):
    os.environ.setdefault(_name, "1")

# A shell that runs the suite in the background has SIGINT ignored, and children inherit that: the
# tests of Ctrl-C would wait for an interrupt that never arrives.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)
