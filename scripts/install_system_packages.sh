#!/usr/bin/env bash
# Debian packages that some tests need: a one-machine SLURM and a browser. Tests that miss theirs are skipped.
set -euo pipefail
packages=(munge slurmctld slurmd slurm-client slurm-wlm-basic-plugins chromium)
missing=()
for package in "${packages[@]}"; do
    dpkg -s "$package" >/dev/null 2>&1 || missing+=("$package")
done
if [ ${#missing[@]} -eq 0 ]; then exit 0; fi
if [ "$(id -u)" -ne 0 ]; then
    echo "not root: ${missing[*]} not installed, their tests will be skipped" >&2
    exit 0
fi
export DEBIAN_FRONTEND=noninteractive
apt-get update -qq
apt-get install -y -qq --no-install-recommends "${missing[@]}" >/dev/null
