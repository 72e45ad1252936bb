#!/bin/sh
# Put Debian's SoftHSM, a PKCS#11 token in software, under DIRECTORY: without root, nothing is installed.
set -eu
directory=$1
for module in /usr/lib/softhsm/libsofthsm2.so /usr/lib/*/softhsm/libsofthsm2.so "$directory"/usr/lib/*/softhsm/libsofthsm2.so; do
    if [ -e "$module" ]; then exit 0; fi
done
mkdir -p "$directory/lists/partial" "$directory/cache/archives/partial"
cd "$directory"
# Where Debian cannot be reached, that shall be known soon.
soon="-o Acquire::http::Timeout=10 -o Acquire::Retries=1"
own="$soon -o Dir::State::Lists=$PWD/lists -o Dir::Cache=$PWD/cache"
# The machine's package lists may be empty, or only root's to fetch.
timeout 90 apt-get -qq $soon download softhsm2 libsofthsm2 2>/dev/null ||
    { timeout 90 apt-get -qq $own update && timeout 90 apt-get -qq $own download softhsm2 libsofthsm2; }
for package in *.deb; do dpkg-deb -x "$package" .; done
rm -rf lists cache ./*.deb
