#!/bin/sh
# Put Debian's rsyslog with its drivers for TLS under DIRECTORY: without root, nothing is installed.
set -eu
directory=$1
for driver in /usr/lib/*/rsyslog/lmnsd_gtls.so "$directory"/usr/lib/*/rsyslog/lmnsd_gtls.so; do
    if [ -e "$driver" ]; then exit 0; fi
done
mkdir -p "$directory/lists/partial" "$directory/cache/archives/partial"
cd "$directory"
packages="rsyslog rsyslog-openssl rsyslog-gnutls libestr0 libfastjson4 liblognorm5"
# Where Debian cannot be reached, that shall be known soon.
soon="-o Acquire::http::Timeout=10 -o Acquire::Retries=1"
own="$soon -o Dir::State::Lists=$PWD/lists -o Dir::Cache=$PWD/cache"
# The machine's package lists may be empty, or only root's to fetch.
timeout 90 apt-get -qq $soon download $packages 2>/dev/null ||
    { timeout 90 apt-get -qq $own update && timeout 90 apt-get -qq $own download $packages; }
for package in *.deb; do dpkg-deb -x "$package" .; done
rm -rf lists cache ./*.deb
