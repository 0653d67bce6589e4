#!/bin/sh
# A base image from Debian's packages alone, for places that no image registry reaches: needs mmdebstrap, docker and root.
#   docker/base.sh NAME:TAG [MIRROR]          then: make images BASE_IMAGE=NAME:TAG
# It holds what debian:bookworm-slim holds. The images install Python themselves where it is missing.
set -eu
name=$1
mirror=${2:-http://deb.debian.org/debian}
tar=$(mktemp --suffix=.tar)
trap 'rm -f "$tar"' EXIT
set -- --variant=minbase --include=ca-certificates
for left_out in 'doc/*' 'man/*' 'locale/*' 'info/*' 'lintian/*'; do
  set -- "$@" --dpkgopt="path-exclude=/usr/share/$left_out"
done
# merging /usr is done once, by a program in Perl; licences stay
mmdebstrap "$@" --dpkgopt='path-include=/usr/share/doc/*/copyright' \
  --customize-hook='chroot "$1" apt-get -qq --yes --no-install-recommends install usr-is-merged' \
  --customize-hook='chroot "$1" apt-get -qq --yes purge usrmerge libperl5.36 perl-modules-5.36' \
  --customize-hook='rm -rf "$1"/var/lib/apt/lists/* "$1"/var/cache/debconf/*-old' \
  bookworm "$tar" "$mirror"
docker import --change 'CMD ["bash"]' --message "Debian 12 by docker/base.sh" "$tar" "$name"
