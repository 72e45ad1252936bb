"""The core of fedhelp-secure: what every role shares. No torch, no server or client code."""
